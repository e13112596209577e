"""The adapters of integrations/ with the packages themselves, installed beside the environment.

    python -m tests.adapter_packages                  statsforecast, neuralforecast, Chronos
    python -m tests.adapter_packages statsforecast    this one

Each package is installed into a folder of its own, with what it needs that the environment lacks.
`tests/test_adapters.py` then runs with that folder on the path. A test that is still skipped for
want of the package ends this script with status 1, and so does one that fails. It needs a package
index, and up to 2 GB; weights from the Hub are not needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "statsforecast": "statsforecast",
    "neuralforecast": "neuralforecast",
    "chronos": "chronos-forecasting",
}
"""word in the names of a package's tests -> what pip calls it"""


def run_tests(name: str, folder: Path) -> bool:
    """Whether the package's tests ran, and passed."""
    installed = folder / name
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(installed), PACKAGES[name]], check=True)
    # At the end of the path: what the environment has, the tests have as well.
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(installed)!r})\n")
    command = [sys.executable, "-m", "pytest", "tests/test_adapters.py", "-n", "0", "-k", name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    return done.returncode == 0 and "SKIPPED" not in done.stdout


def main() -> None:
    """Run the tests of the named packages."""
    names = sys.argv[1:] or list(PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        passed = {name: run_tests(name, Path(temporary)) for name in names}
    for name, is_fine in passed.items():
        print(f"{name}: {'passed' if is_fine else 'FAILED, or skipped'}")
    sys.exit(not all(passed.values()))


if __name__ == "__main__":
    main()
