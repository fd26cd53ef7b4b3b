"""Runs the scripts of tpu_scripts/ with fake commands, and nothing else but a few plain tools, on PATH."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tpu_scripts"
EXAMPLE = SCRIPTS / "settings.sh"

# fmt: off
_TOOLS = [
    "basename", "bash", "cat", "cmp", "cp", "dirname", "env", "grep", "id", "mkdir", "mktemp", "rm", "sleep", "tail",
    "tr",
]
_FAKES = [
    "gcloud", "kubectl", "xpk", "docker", "sbatch", "squeue", "scancel", "scontrol", "srun",
    "git", "tar", "uv", "python3", "sudo", "systemctl", "mountpoint", "gcsfuse", "curl", "lsb_release",
]
# fmt: on

Answers = Mapping[str, list[dict[str, Any]]]


class Shell:
    """A folder with settings, a PATH of fakes, and the log of what was called."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.fakes = folder / "fake"  # what the fakes read and write, see command.sh
        self.log = self.fakes / "calls.jsonl"
        self.bin.mkdir()
        for tool in _TOOLS:
            found = shutil.which(tool)
            assert found, f"{tool} is not on PATH"
            (self.bin / tool).symlink_to(found)
        for name in _FAKES:
            self.fake(self.bin / name)
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "FAKE": str(self.fakes)}
        self.tell({})

    def fake(self, path: Path) -> None:
        """Makes ``path`` a fake command, which goes by the name of the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(Path(__file__).with_name("command.sh"))

    def without(self, name: str) -> None:
        (self.bin / name).unlink()

    def tell(self, answers: Answers) -> None:
        """What the fakes answer from now on; the log starts anew.

        Args:
          answers: part of a call -> answers in order, the last of them from then on. An answer has "out", "err", "code"
            and "seconds", all optional. The first part that a call holds decides.
        """
        shutil.rmtree(self.fakes, ignore_errors=True)
        for number, (part, told) in enumerate(answers.items()):
            folder = self.fakes / "answers" / f"{number:02}"
            folder.mkdir(parents=True)
            (folder / "part").write_text(f"{part}\n")
            for n, answer in enumerate(told):
                lines = [f"{key}={shlex.quote(str(value))}\n" for key, value in answer.items()]
                (folder / str(n)).write_text("".join(lines))
        self.fakes.mkdir(exist_ok=True)
        for name in ("lines", "calls.jsonl"):
            (self.fakes / name).touch()

    def settings(self, changes: Mapping[str, str] | None = None, name: str = "my_run.sh") -> Path:
        """The example with ``changes``: setting -> what stands behind the "=" in the file."""
        lines = EXAMPLE.read_text().splitlines()
        for key, value in {"POLL_SECONDS": "0", **(changes or {})}.items():
            (number,) = [n for n, line in enumerate(lines) if line.startswith(f"{key}=")]
            lines[number] = f"{key}={value}"
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def start(self, script: Path | str, *words: object, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.bin / "bash"), str(SCRIPTS / script), *map(str, words)],
            env={**self.env, **env},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: Path | str, *words: object, code: int = 0, **env: str) -> tuple[str, str]:
        """Output and errors of a script that ends with ``code``."""
        process = self.start(script, *words, **env)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return out, err

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def words(self) -> list[list[str]]:
        """The words of every call, in order."""
        return [call["words"] for call in self.calls]

    def verbs(self) -> list[str]:
        """What was asked of the queued resource, in order; of ssh, the command on the workers."""
        found = []
        for words in self.words:
            assert words[:4] == ["gcloud", "compute", "tpus", "queued-resources"]
            command = [word for word in words if word.startswith("--command=")]
            found.append(command[0].split()[-1] if command else words[4])
        return found


def is_executable(path: Path) -> bool:
    return os.access(path, os.X_OK)
