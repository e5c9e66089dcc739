"""A command's exit code is its own, whatever ends its process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import atexit, ctypes, os, signal, sys, time
from tokensieve.cli.supervision import supervised

def late():
    atexit.register(os._exit, 0)
    sys.exit(1)

def interrupted(send):
    caught = []
    signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    send()
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        time.sleep(0.05)
    sys.exit(40 + len(caught))

def once():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(30)
    except KeyboardInterrupt:
        sys.exit(130)

ends = [
    (lambda: interrupted(lambda: os.kill(os.getppid(), signal.SIGINT)), 41),
    (lambda: interrupted(lambda: os.killpg(0, signal.SIGINT)), 41),
    (lambda: interrupted(lambda: os.kill(os.getpid(), signal.SIGINT)), 41),
    (once, 130),
    (lambda: None, 0),
    (lambda: sys.exit(0), 0),
    (lambda: sys.exit(), 0),
    (lambda: sys.exit(2), 2),
    (lambda: sys.exit("no"), 1),
    (lambda: 1 / 0, 1),
    (late, 1),
    (lambda: os._exit(0), 1),
    (lambda: os._exit(7), 7),
    (lambda: ctypes.string_at(0), 139),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), 137),
    (lambda: os.kill(os.getppid(), signal.SIGTERM) or signal.pause(), 143),
]
first = os.getpid()
for number, (end, code) in enumerate(ends):
    try:
        supervised(end)
    except SystemExit as found:
        if os.getpid() != first:
            raise
        assert found.code == code, (number, found.code, code)
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_DFL)
print("all", len(ends))
"""


def test_the_exit_code_is_that_of_the_command():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120, start_new_session=True
    )
    assert done.stdout == "all 16\n", done.stderr
    assert done.stderr.count("the command was ended before it was done") == 1
    assert done.stderr.count("the command was ended by signal") == 3


STUDY = """
name: interrupted
models: [world-llava]
recipes: [gsp, norm]
keep: [64, 32, 16, 8, 4, 2]
limit: 2
tasks: [world]
"""


def session_of(leader):
    """Return the processes of a session that still run, by their ids."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(entry.name)) == leader and " Z " not in (entry / "stat").read_text():
                found.append(int(entry.name))
    return found


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are listed in /proc")
def test_an_interrupt_of_the_main_process_alone_ends_a_study(tmp_path):
    """As a job runner sends it, not as Ctrl-C in a terminal, which reaches all processes."""
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    command = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command += "from tokensieve.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "compare", "study.yaml", "--out", "run"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        end = time.monotonic() + 300
        while not list(tmp_path.glob("run/cells/*.parquet")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopped; what is finished is in run" in said
    assert list(tmp_path.glob("run/cells/*.parquet"))
    # The server of the workers ends a moment after the process that it served.
    while session_of(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert session_of(process.pid) == []
