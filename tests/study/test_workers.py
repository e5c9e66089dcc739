"""Cells run in workers: whatever ends or hangs one costs its cell, says so, and nothing else."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest

from tokensieve.errors import RefusedError
from tokensieve.study.running.local_engine import run_local
from tokensieve.study.running.worker_pool import WorkerPool
from tokensieve.study.store import Store

from .made import timeless

DEADLY = {
    "quiet exit": "ended with exit code 0 in the middle of the cell",
    "crash": "crashed in native code (signal 11, SIGSEGV)",
    "die": "was killed by the system when memory ran out, or by somebody (signal 9, SIGKILL)",
}
"""What ends a process, and what is said of it."""
RAISED = {
    "exit": "SystemExit: 0",
    "generator exit": "GeneratorExit",
    "interrupt": "KeyboardInterrupt",
    "cancel": "CancelledError",
    "unreadable": "NoTextError: its text cannot be read, because of a SystemExit",
}
"""What a process survives, and the reason of the failure."""
HARMLESS = ("fork", "bomb", "deaf")
"""What harms the process, after which it may end, but not the rows of the cell."""


def faulty(*ways, **settings):
    more = "".join(f", {name}: {value}" for name, value in settings.items())
    one = "{{name: {way}, strategies: {{f: {{use: faulty, how: {way}{more}}}}}, select: f}}"
    return ", ".join(one.format(way=way, more=more) for way in ways)


def begin(store, jobs):
    store.begin("name: x\n", {"keys": [job.cell.key for job in jobs], "skipped": []})


@pytest.fixture
def methods(planned):
    """Plan the cells of faulty strategies, of `gsp`, and of the model as it is."""

    def plan(*ways, keep="[9]", task="{use: colours, questions: 2}", **settings):
        recipes = f"[{', '.join(filter(None, (faulty(*ways, **settings), 'gsp')))}]"
        jobs = planned(recipes, keep, f"[{task}]", more="seeds: [0]").jobs
        return [job for job in jobs if job.cell.role in ("unpruned", "method")]

    return plan


@pytest.mark.parametrize("workers", [1, 2])
def test_whatever_ends_a_process_costs_its_cell(methods, store, registry, workers):
    jobs = methods(*DEADLY, *RAISED, *HARMLESS)
    begin(store, jobs)
    seen = []
    summary = run_local(jobs, store, registry, seen.append, workers)
    assert {result.cell.key for result in seen} == {job.cell.key for job in jobs}
    failed = {result.cell.method: result.reason for result in summary.failed}
    assert set(failed) == {*DEADLY, *RAISED}
    assert summary.done == len(jobs) - len(failed)
    for way, words in DEADLY.items():
        assert failed[way].startswith(f"{jobs[0].cell.model} colours {way} keep 9: its process {words}")
        assert "--in-process" in failed[way]
    assert {way: failed[way] for way in RAISED} == RAISED
    written = {failure.cell.method: failure for failure in store.failures()}
    assert {way: failure.reason for way, failure in written.items()} == failed
    # Where a crash happened, and an error, is written down.
    for way in ("crash", *RAISED):
        assert "in score" in written[way].trace, way
    assert multiprocessing.active_children() == []
    # The next run goes on, and the rows are those of this process.
    calm = [job for job in jobs if job.cell.method in ("unpruned", "gsp")]
    assert run_local(calm, store, registry, seen.append).cached == len(calm)
    here = Store(Path(store.path).with_name("here"))
    begin(here, calm)
    run_local(calm, here, registry, seen.append, in_process=True)
    assert [timeless(store.read(job.cell.key)[1]) for job in calm] == [
        timeless(here.read(job.cell.key)[1]) for job in calm
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hung_cell_is_ended_and_named(methods, store, registry, workers):
    jobs = methods("hang", keep="[9, 4]" if workers == 2 else "[9]")
    jobs.sort(key=lambda job: job.cell.method != "hang")
    begin(store, jobs)
    results = []

    def count(_, result):
        results.append(result)
        # What hangs is known by now; how fast the others are is not asked here.
        pool._timeout = 600

    pool = WorkerPool(jobs, store, time.time(), workers, 1, count)
    pool.run()
    assert [result.cell.method for result in results if result.status == "failed"] == ["hang"] * workers
    assert {result.cell.method for result in results if result.status == "done"} == {"unpruned", "gsp"}
    for failure in store.failures():
        assert ": it had not ended after 1 seconds, so its process was ended" in failure.reason
        assert "--cell-timeout" in failure.reason
        # Every thread, and where it was.
        assert "most recent call first" in failure.trace
    assert multiprocessing.active_children() == []


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["orphan", "garbage"])
def test_what_ends_more_than_its_own_process_costs_its_cell_too(methods, store, registry, way):
    """Workers' server killed, and rubbish in every pipe: Python starts another server, and then another worker."""
    jobs = methods(way)
    begin(store, jobs)
    summary = run_local(jobs, store, registry, lambda _: None)
    assert [result.cell.method for result in summary.failed] == [way]
    assert summary.done == len(jobs) - 1


def test_a_worker_runs_many_cells(methods, store, registry):
    """So its `Runner` loads a model once for them; see `test_runner.py`."""
    jobs = methods("raise", "exit", keep="[9, 4]")
    begin(store, jobs)
    pool = WorkerPool(jobs, store, time.time(), 1, 600, lambda *_: None)
    pool.run()
    assert len(store.finished()) == 3
    assert len(store.failures()) == 4
    assert pool._started == 1


def test_what_an_earlier_cell_left_behind_costs_no_other_cell(methods, store, registry):
    """A process that ends while a cell runs that has done nothing: it is run again, in a new one."""
    jobs = methods("bomb")
    jobs.sort(key=lambda job: job.cell.method != "bomb")
    begin(store, jobs)
    summary = run_local(jobs, store, registry, lambda _: None)
    assert (summary.done, summary.failed) == (len(jobs), [])


def test_the_script_of_the_caller_is_not_run_again(methods, store, registry, monkeypatch, tmp_path):
    """As a script without `if __name__ == "__main__"` needs it, and as a notebook, which has no file."""
    mark = tmp_path / "mark"
    script = tmp_path / "script.py"
    script.write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")
    main = types.ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    jobs = methods()[:1]
    begin(store, jobs)
    assert run_local(jobs, store, registry, lambda _: None).done == 1
    assert not mark.exists()
    assert sys.modules["__main__"] is main


def test_workers_run_where_the_caller_is(methods, store, registry, monkeypatch, tmp_path):
    """The folder, the path of modules and the environment are those of now, not of when Python was started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENSIEVE_HERE", "yes")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_of_this_folder.py").write_text(
        "import os\nfrom pathlib import Path\nimport torch\nfrom tokensieve import Scorer, hookimpl\n"
        "class Here(Scorer):\n"
        '    """Says where it is."""\n'
        '    name = "here"\n'
        "    def score(self, tokens):\n"
        '        Path("said").write_text(os.environ["TOKENSIEVE_HERE"])\n'
        "        return torch.zeros(tokens.valid.shape)\n"
        "@hookimpl\ndef register_strategies(registry):\n    registry.add_strategy(Here)\n",
        encoding="utf-8",
    )
    jobs = methods()
    from dataclasses import replace

    import plugin_of_this_folder

    registry.register(plugin_of_this_folder, "plugin_of_this_folder")
    job = replace(jobs[-1], plugins=(*jobs[-1].plugins, "plugin_of_this_folder"))
    recipe = {"stages": [{"at": "decoder.0", "select": "here", "keep": 9}]}
    job = replace(job, cell=replace(job.cell, recipe=recipe))
    begin(store, [job])
    summary = run_local([job], store, registry, lambda _: None)
    assert summary.failed == []
    assert (tmp_path / "said").read_text() == "yes"


def test_what_lies_in_the_working_folder_is_no_module_of_workers(tmp_path):
    """Nor is it one of the command, but of `python -c`, which the server of workers is."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "queue.py").write_text("raise SystemExit('this is no module of Python')\n", encoding="utf-8")
    code = """
    import sys
    sys.path[:] = [folder for folder in sys.path if folder]
    import multiprocessing
    from tokensieve.study.running import worker_pool
    says = "import importlib.util, os; print(importlib.util.find_spec('mlx'), os.environ.get('PYTHONSAFEPATH'))"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["queue", "importlib.util"])
    process = context.Process(target=exec, args=(says,))
    worker_pool._start_process(process)
    process.join()
    sys.exit(process.exitcode)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split()[0] == "None"


def test_what_only_this_process_knows_is_refused(methods, store, registry):
    jobs = methods()[:1]
    begin(store, jobs)
    registry.register(types.ModuleType("nothing"), "nothing but a name")
    with pytest.raises(RefusedError, match=r"only this process knows nothing but a name.*`plugins:` of the study"):
        run_local(jobs, store, registry, lambda _: None)
    assert run_local(jobs, store, registry, lambda _: None, in_process=True).done == 1
    with pytest.raises(RefusedError, match="2 workers"):
        run_local(jobs, store, registry, lambda _: None, 2, in_process=True)


def test_an_interrupt_ends_the_workers(methods, store, registry):
    jobs = methods(keep="[9, 4, 1]")

    def told(_):
        raise KeyboardInterrupt

    begin(store, jobs)
    with pytest.raises(KeyboardInterrupt):
        run_local(jobs, store, registry, told, workers=2)
    assert multiprocessing.active_children() == []
    assert 1 <= len(store.finished()) < len(jobs)
    # Their claims went with them.
    for job in jobs:
        with store.claim(job.cell.key) as ours:
            assert ours


SCRIPT = """
import pickle, sys
from pathlib import Path
sys.path[:] = {path!r}
from tokensieve import default_registry
from tokensieve.study.running.local_engine import run_local
from tokensieve.study.spec.plugins import register_plugins
from tokensieve.study.store import Store
jobs = pickle.loads(Path({jobs!r}).read_bytes())
registry = default_registry()
register_plugins(jobs[0].plugins, registry)
run_local(jobs, Store({store!r}), registry, print)
"""


@pytest.mark.nightly
def test_workers_end_with_the_process_that_started_them(methods, store, tmp_path):
    """However it ends, and though a cell of theirs hangs."""
    import pickle

    marks = tmp_path / "marks"
    marks.mkdir()
    jobs = [job for job in methods("hang", marks=marks) if job.cell.method == "hang"]
    begin(store, jobs)
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    script = SCRIPT.format(path=sys.path, jobs=str(tmp_path / "jobs"), store=store.path)
    with subprocess.Popen([sys.executable, "-c", script]) as caller:
        patience = time.monotonic() + 120
        while not list(marks.iterdir()) and time.monotonic() < patience:
            time.sleep(0.05)
        [mark] = marks.iterdir()
        os.kill(caller.pid, signal.SIGKILL)
    while time.monotonic() < patience and Path("/proc", mark.name).exists():
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.name), 0)
