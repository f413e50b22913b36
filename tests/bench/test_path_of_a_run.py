"""A command line reaches a method in few steps, and in plain calls: the stack trace tells the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import runpy, sys, traceback
import bench.methods.gradient as gradient

true = gradient.grad_cam

def grad_cam(acts, grads):
    frames = [f for f in traceback.extract_stack() if "/bench/" in f.filename or f.name == "grad_cam"]
    print("FRAMES", " ".join(f.name for f in frames))
    return true(acts, grads)

grad_cam.__module__, grad_cam.__qualname__ = true.__module__, "grad_cam"
gradient.grad_cam = grad_cam
sys.argv = ["bench", *sys.argv[1:]]
runpy.run_module("bench", run_name="__main__")
"""


def test_at_most_nine_frames_from_the_command_line_to_a_method(tmp_path: Path) -> None:
    words = ["model=resnet18", "model.weights=random", "method=[grad_cam]", "metric=[box_coverage]", "limit=1"]
    words += ["quiet=true", f"out={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    frames = next(line for line in done.stdout.splitlines() if line.startswith("FRAMES")).split()[1:]
    assert frames[-1] == "grad_cam" and "main" in frames
    assert len(frames) <= 9, frames
