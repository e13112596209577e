"""The README's run has the same figures wherever they stand, and one command rewrites them."""

import pytest

from docs import figures
from tests.test_report import score
from tests.test_verdict import make_predictions, with_quantiles


@pytest.fixture(scope="module")
def pages():
    return {name: (figures.ROOT / name).read_text(encoding="utf-8") for name in figures.PAGES}


def lines_of(page):
    return {line.strip() for block in figures.blocks_of(page) for line in block.splitlines()}


def test_the_pages_agree_on_the_figures_of_the_readme_s_run(pages):
    assert figures.with_figures(pages) == pages
    numbers = lines_of(pages[figures.NUMBERS])
    told = [line for line in lines_of(pages["README.md"]) if line.startswith(("lstm", "VERDICT"))]
    assert len(told) == 2 and set(told) <= numbers


def test_another_run_rewrites_tables_verdict_sentences_and_prose(pages):
    frame = with_quantiles(make_predictions(400, known=0.05)).assign(reversal=0.0, lad=0.0)
    frame = frame.assign(
        **{
            f"{name}_{q}": 2 * frame[q] for name in ("ewma", "garch", "har") for q in ("q10", "q50")
        },
        **{f"{name}_q90": 3 * frame["q90"] for name in ("ewma", "garch", "har")},
        p_up=0.5 + 20 * frame["lstm"].clip(-0.02, 0.02),
    )
    names = ("naive", "drift", "reversal", "lad", "ridge", "xgboost")
    scores = score([frame], baselines=names, interval_baselines=("ewma", "garch", "har"))
    naive = next(of for of in scores["test"]["verdicts"] if of["baseline"] == "naive")
    naive["verdict"], scores["test"]["power"]["skill_against_naive"] = "TIES", 0.0123
    scores["backtest"]["net"]["total_return"] = -0.4321

    anew = {name: figures.printed_anew(page, scores) for name, page in pages.items()}
    numbers = figures.with_figures(anew)[figures.NUMBERS]
    assert "would need 1.23 %." in numbers and "bps a side: −43.2 %." in numbers
    assert "It made 800 forecasts of" in numbers
    readme = figures.with_figures(anew)["README.md"]
    assert "only show a skill of 1.2 % or more" in readme
    mape = f"{scores['test']['models']['lstm']['mape_percent']:.4f}"
    assert f"\n      lstm            {mape}" in readme and f"\nlstm            {mape}" in numbers
    assert readme.count("───") and not numbers.count("───")  # as they were
    outside = [page.split("```text")[0] for page in (readme, pages["README.md"])]
    assert outside[0] == outside[1]


def test_a_sentence_that_no_longer_holds_its_figure_is_named(pages):
    changed = pages["README.md"].replace("could only show", "might show")
    with pytest.raises(ValueError, match=r'README.md: says 0 times "could only show a skill'):
        figures.with_figures(pages | {"README.md": changed})
    without = pages[figures.NUMBERS].replace("after fees", "net")
    with pytest.raises(ValueError, match=r"no figure for after; change SHOWN"):
        figures.with_figures(pages | {figures.NUMBERS: without})


def test_a_verdict_that_changes_is_noticed(pages):
    page = pages["README.md"]
    assert figures.verdicts_of(page) == ["NO EDGE", "TIES"]
    assert figures.verdicts_of(page.replace("TIES with naive", "LOSES to naive")) != [
        "NO EDGE",
        "TIES",
    ]


def test_a_run_s_folder_is_all_that_the_command_needs(pages, tmp_path, monkeypatch, capsys):
    for name, page in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(page, encoding="utf-8")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "printed_anew", lambda page, _: page.replace("+0.6", "+0.5"))
    (tmp_path / "metrics_v2.json").write_text("{}")
    figures.main(tmp_path)
    assert "README.md: rewritten" in capsys.readouterr().out
    assert "skill +0.5" in (tmp_path / "README.md").read_text(encoding="utf-8")
