"""What the source documents print can be typed as it is, or the error says what to write."""

import subprocess
import sys

import pytest

from generations.v1_final.inference import CryptoPricePredictorV1Final
from tests.test_imports import ROOT, run_python


@pytest.mark.slow
def test_the_guide_s_import_and_command_work_as_printed():
    code = "from v1.inference_v2 import CryptoPricePredictorV2 as Theirs; import inference_v2; "
    code += "print(Theirs is inference_v2.CryptoPricePredictorV2)"
    assert run_python(code).strip() == "True"
    words = [sys.executable, "v1/train_v2_production.py", "--epochs", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: epochs is 0; pass at least 1\n")


def test_the_report_s_path_of_v1_final_is_refused_with_where_the_file_is(tmp_path):
    wanted = tmp_path / "v1" / "crypto_v1_final_model.h5"
    there = tmp_path / "v1_final" / wanted.name
    there.parent.mkdir()
    there.write_bytes(b"a network")
    with pytest.raises(FileNotFoundError) as caught:
        CryptoPricePredictorV1Final(wanted, wanted.with_name("scalers_v1_final.pkl"))
    assert str(caught.value).endswith(f"mend the path (there is one at {there})")
