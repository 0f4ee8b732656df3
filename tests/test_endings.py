"""How a command ends: by signals, closed pipes and full disks, with the status of each."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebm_jax.runs import launch
from tests.test_distributed import ENVIRONMENT

ROOT = Path(__file__).parents[1]
WAITING = """
import sys, time
from pathlib import Path
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import say
from ebm_jax.runs.progress import progress
from ebm_jax.runs.run import Run

def main(run: Run):
    '''Do it.

    Args:
        run: the run.
    '''
    run.begin(products=())
    with progress("sample", 1000) as advance:
        for i in range(1000):
            time.sleep(0.02)
            advance(1)
            if i == 1:
                say("sampling")
            BODY

command(main)
"""


def start(body, folder, **streams):
    code = WAITING.replace("BODY", body)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen(
        [sys.executable, "-c", code, "--out", str(folder)],
        cwd=ROOT, env=ENVIRONMENT, text=True, **streams,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)]
)
def test_signals_end_every_phase_with_their_status_and_say_what_resumes(tmp_path, number, status):
    """Here the phase of drawing samples. A shell ends its loop at a child that SIGINT killed."""
    process = start("pass", tmp_path / "run")
    line = "begun"
    while line and "sampling" not in line:
        line = process.stdout.readline()
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == status
    assert said.strip() == "stopped: the same command resumes from the last checkpoint"


@pytest.mark.slow
def test_of_several_processes_all_end_where_one_is_told_to_while_they_draw(tmp_path):
    place = ["--coordinator", f"localhost:{launch.free_port()}", "--num-processes", "2"]
    code = WAITING.replace("BODY", "pass")
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    jobs = []
    for i, log in enumerate(logs):
        with log.open("w") as file:
            command = [sys.executable, "-c", code, "--out", str(tmp_path / "run"), *place]
            jobs.append(
                subprocess.Popen(
                    [*command, "--process-id", str(i)], cwd=ROOT, stdout=file, stderr=file,
                    env=ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "1", "TMPDIR": str(tmp_path)},
                )
            )  # fmt: skip
    while "sampling" not in logs[0].read_text() and jobs[0].poll() is None:
        time.sleep(0.05)
    jobs[1].send_signal(signal.SIGTERM)
    said = [job.wait(timeout=60) for job in jobs], *(log.read_text() for log in logs)
    assert said[0] == [143, 143], said
    assert all("stopped: the same command resumes" in text for text in said[1:])
    assert not list(tmp_path.glob("ebm_jax*"))  # the copy of the second process is gone


@pytest.mark.slow
def test_a_loop_of_a_shell_ends_at_the_run_that_is_interrupted(tmp_path):
    """Ctrl-C reaches the shell too, which goes on if its child exits, of whatever status."""
    (tmp_path / "run.py").write_text(WAITING.replace("BODY", "pass"))
    loop = 'for seed in 1 2 3; do echo seed $seed; "$0" "$1/run.py" --out "$1/$seed"; done'
    shell = subprocess.Popen(
        ["bash", "-c", loop, sys.executable, str(tmp_path)], start_new_session=True, cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while "sampling" not in shell.stdout.readline():
        pass
    os.killpg(shell.pid, signal.SIGINT)
    said = shell.communicate()[0]
    assert "seed 2" not in said


def test_an_interrupt_during_the_imports_gives_no_traceback():
    """`python -m experiments.edm` is a second of imports; SIGINT comes among them."""
    code = "import os, signal, sys; sys.argv[0] = '-m'; import experiments\n"
    code += "os.kill(os.getpid(), signal.SIGINT)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


@pytest.mark.slow
def test_a_command_heeds_an_interrupt_again_once_it_runs(tmp_path):
    code = "import sys; sys.argv[0] = '-m'; import experiments\n" + WAITING.replace("BODY", "pass")
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--out", str(tmp_path / "run")],
        cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = "begun"
    while line and "sampling" not in line:
        line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "the same command resumes" in process.communicate()[1]


def test_importing_experiments_elsewhere_leaves_signals_alone():
    code = "import signal, experiments; assert signal.getsignal(signal.SIGINT) is not None\n"
    code += "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_closed_pipe_ends_a_run_without_a_word(tmp_path):
    process = start("say(i)", tmp_path / "run")
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as said:
        assert said.read() == ""
    assert process.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_a_full_standard_output_is_one_sentence(tmp_path):
    with open("/dev/full", "w") as full:
        process = start("say(i)", tmp_path / "run", stdout=full)
        said = process.communicate()[1]
    assert process.returncode == 1
    [line] = said.splitlines()
    assert line.startswith("error: OSError: [Errno 28] No space left on device")
    assert line.endswith("the same command resumes")


FULL = "raise OSError(28, 'No space left on device', 'metrics.csv')"


def test_a_full_disk_is_one_sentence_and_the_folder_is_free_again(tmp_path):
    process = start(FULL, tmp_path / "run")
    said = process.communicate()[1]
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert "No space left on device: 'metrics.csv'; the same command resumes" in said
    assert not (tmp_path / "run").exists()  # nothing came of it


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path):
    process = start("1 / 0", tmp_path / "run")
    assert "ZeroDivisionError" in process.communicate()[1]
    assert process.returncode == 1


def test_a_temporary_copy_of_the_folder_is_removed_however_a_process_ends(tmp_path):
    """The others of several processes work on one; each way to end is tried in a fork."""
    for way in ("end('x', 143)", "end_by_sigint('x')"):
        code = f"""
import os, tempfile
from ebm_jax.runs import endings
endings.SCRATCH.append(tempfile.TemporaryDirectory(dir={str(tmp_path)!r}))
endings.{way}
"""
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
        assert list(tmp_path.iterdir()) == [], way


def test_no_remaining_time_is_forecast_before_there_is_a_rate(capsys):
    from ebm_jax.runs.progress import forecast

    assert forecast(10, 100, now=60.0, first=None) == ""  # the first includes compiling
    assert forecast(20, 100, now=65.0, first=(10, 60.0)) == "2.0/s, 0:40 left"
    assert forecast(100, 10_100, now=70.0, first=(90, 60.0)) == "1.0/s, 2:46:40 left"
    assert forecast(100, 100, now=105.0, first=(10, 60.0)) == "2.0/s"
    assert forecast(10, 10, now=1.0, first=(10, 0.0)) == ""


def test_compiling_is_announced_before_anything_is_done(capsys):
    from ebm_jax.runs.progress import progress

    with progress("sample", 2) as advance:
        assert capsys.readouterr().out == "sample: compiling ...\n"
        advance(1)
        time.sleep(0.01)
        advance(1, "loss 0.5")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("sample 2/2  ")
    assert line.endswith("/s  loss 0.5")
    with progress("train", 5, done=5):  # a run that is resumed at its end trains nothing
        assert capsys.readouterr().out == ""
