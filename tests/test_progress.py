"""What a person at the terminal sees."""

import io
import logging
import sys
import warnings

import pytest

from pipeline import terminal


def test_the_log_keeps_whole_lines_and_drops_what_a_carriage_return_overwrote(tmp_path, capsys):
    with terminal.terminal_log(tmp_path / "log.txt"):
        print("first")
        sys.stdout.write("10 %\r50 %\r100 %\n")
        logging.getLogger("pipeline.candles.store").warning("a notice")
        logging.getLogger("elsewhere").warning("not ours")
    print("after")
    assert (tmp_path / "log.txt").read_text() == "first\n100 %\n      ! a notice\n"
    assert capsys.readouterr().out == "first\n10 %\r50 %\r100 %\n      ! a notice\nafter\n"


def test_the_terminal_log_leaves_logging_as_it_was(tmp_path):
    logger = logging.getLogger("pipeline")
    before = (list(logger.handlers), logger.level)
    with pytest.raises(ZeroDivisionError), terminal.terminal_log(tmp_path / "log.txt"):
        print(1 / 0)
    assert (list(logger.handlers), logger.level) == before
    assert sys.stdout.__class__.__name__ != "_Tee"


def test_phases_are_numbered_and_timed(capsys):
    phases = terminal.Phases(2)
    phases.start("Fetch", "1h candles")
    phases.start("Train")
    first, second = capsys.readouterr().out.split("\n\n")[0], capsys.readouterr()
    assert first.strip().startswith("[1/2] Fetch · 1h candles")
    assert first.endswith(" s")
    assert phases.number == 2
    assert second.err == ""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("two\nlines"), 2, "error: two lines\n"),
        (
            FileNotFoundError("x.h5: there is no such file"),
            2,
            "error: x.h5: there is no such file\n",
        ),
        (BrokenPipeError(), 141, ""),
        (KeyboardInterrupt(), 130, "\ninterrupted; --resume goes on\n"),
    ],
)
def test_expected_errors_are_one_line_and_a_status(capsys, error, status, line):
    with pytest.raises(SystemExit) as exit, terminal.one_line_errors("; --resume goes on"):
        raise error
    assert exit.value.code == status
    assert capsys.readouterr().err == line


def test_what_an_interrupt_leaves_is_looked_up_then(capsys):
    left = []
    with pytest.raises(SystemExit), terminal.one_line_errors(lambda: "".join(left)):
        left.append("; a half is there")
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "\ninterrupted; a half is there\n"


def test_an_epoch_s_line_leaves_out_what_says_nothing(capsys):
    logs = {"loss": 0.25, "val_loss": 0.5, "learning_rate": 1e-3, "seconds": 2.0}
    terminal.tell_epoch(0, logs)
    terminal.tell_epoch(1, logs | {"learning_rate": 0.0}, is_val_learnt=True)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "      epoch   1  loss 0.25000  validation 0.50000  step 1.0e-03  2.0 s"
    assert last == "      epoch   2  loss 0.25000  2.0 s"


def test_a_notice_is_said_once_whoever_else_logs(capsys):
    """absl gives the root a handler where it has none, and with it every notice came twice."""
    with terminal.notices():
        root = logging.getLogger()
        assert root.handlers
        logging.getLogger("pipeline.candles").info("a notice")
        logging.getLogger("pipeline.candles").debug("a detail")
    with terminal.notices(verbose=True):
        logging.getLogger("pipeline.candles").debug("a detail")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("      a notice\n      a detail\n", "")


def test_what_is_next_is_a_line_each(capsys):
    terminal.tell_next({"report": "all_models/v2/report_v2.html", "page": "python app.py"})
    assert capsys.readouterr().out == (
        "\nNext:\n  report   all_models/v2/report_v2.html\n  page     python app.py\n"
    )


def test_a_package_that_is_not_installed_is_named_with_the_remedy(capsys):
    with pytest.raises(SystemExit) as exit, terminal.one_line_errors():
        import no_such_package.at_all  # noqa: F401
    assert exit.value.code == 2
    assert capsys.readouterr().err == (
        "error: the package no_such_package is not installed; pip install -r requirements.txt\n"
    )


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), terminal.one_line_errors():
        raise KeyError("a bug")
    with pytest.raises(ModuleNotFoundError), terminal.one_line_errors():
        import pipeline.no_such_module  # noqa: F401


def test_a_bar_is_silent_where_nobody_watches(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = terminal.bar(10, "epoch 1", "batch")
    bar.update()
    bar.close()
    assert stream.getvalue() == ""


def test_letters_that_a_stream_lacks_cost_no_output():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    terminal.plain_letters(stream)
    stream.write("skill ─ 0.5 %")
    stream.flush()
    assert stream.buffer.getvalue() == b"skill ? 0.5 %"


ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202edoc\r"
VISIBLE = r"\x1b]0;title\x07\x1b[2J\x9b31m\u202edoc\r"


def test_a_strangers_escape_codes_are_shown_and_not_obeyed(capsys):
    assert terminal.visible(f"a\tb\n{ESCAPES} ─ …é€") == f"a\tb\n{VISIBLE} ─ …é€"
    assert terminal.visible("\udcff") == r"\udcff"  # of a file's name that is no UTF-8
    with terminal.notices():
        logging.getLogger("pipeline.candles").warning("%s: odd", ESCAPES)
    with terminal.plain_warnings():
        warnings.simplefilter("always")
        warnings.warn(ESCAPES, stacklevel=1)
    with pytest.raises(SystemExit), terminal.one_line_errors():
        raise ValueError(ESCAPES[:-1])
    told = capsys.readouterr()
    assert told.out == f"      ! {VISIBLE}: odd\n"
    assert told.err == f"note: {VISIBLE}\nerror: {VISIBLE[:-2]}\n"


@pytest.mark.parametrize("error", [ValueError(), OSError(""), TimeoutError(), ValueError(" \n")])
def test_an_error_without_a_text_shows_its_kind(capsys, error):
    with pytest.raises(SystemExit) as exit, terminal.one_line_errors():
        raise error
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"error: {type(error).__name__}\n"


def test_a_notice_within_two_blocks_is_shown_once(capsys):
    log = logging.getLogger("pipeline.some_part")
    with terminal.notices():
        with terminal.notices():
            log.info("an inner one")
        log.info("an outer one")
    shown = "".join(capsys.readouterr())
    assert shown.count("an inner one") == shown.count("an outer one") == 1
