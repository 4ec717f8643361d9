"""Known vulnerabilities of what the package stands on, by pip-audit, where a database can be had.

``python tests/audit.py`` asks of what is installed here and required by the package and its extras.
pip-audit passes over what it cannot look up, and then finds "no known vulnerabilities": here that
is told apart. The exit code is 1 for a vulnerability, 2 where nothing could be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

EXTRAS = ("graph", "train", "video", "live")
Answers = list[dict[str, Any]]


def required(package: str = "mirnet-edge", extras: tuple[str, ...] = EXTRAS) -> dict[str, str]:
    """Versions of all that is installed and required, directly or not, by name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    left: list[tuple[str, tuple[str, ...]]] = [(package, extras)]
    while left:
        name, wanted = left.pop()
        for text in requires(name) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                continue
            key = canonicalize_name(requirement.name)
            if key in found:
                continue
            try:
                found[key] = version(key).partition("+")[0]
            except PackageNotFoundError:
                continue
            left.append((key, tuple(requirement.extras)))
    return found


def ask(versions: Mapping[str, str]) -> Answers:
    """What pip-audit says of each package."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder, "pinned.txt")
        pinned.write_text("".join(f"{n}=={v}\n" for n, v in sorted(versions.items())), "utf-8")
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--format",
            "json",
            "--progress-spinner",
            "off",
        ]
        command += ["--no-deps", "--disable-pip", "--requirement", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    try:
        answers: Answers = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        return [{"name": name, "skip_reason": "".join(reason)} for name in versions]
    return answers


def audit(versions: Mapping[str, str], ask: Callable[[Mapping[str, str]], Answers] = ask) -> int:
    """Print what is known; the exit code."""
    first = dict(sorted(versions.items())[:1])
    answers = ask(first)  # of one, before some seventy are asked of what does not answer
    if all("skip_reason" in answer for answer in answers):
        print(
            "nothing was audited: the database of vulnerabilities cannot be had here "
            f"({answers[0]['skip_reason'] if answers else 'no answer'})"
        )
        return 2
    answers = ask(versions)
    skipped = [answer["name"] for answer in answers if "skip_reason" in answer]
    found = [(answer, flaw) for answer in answers for flaw in answer.get("vulns", ())]
    for answer, flaw in found:
        fixed = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
        print(f"{answer['name']} {answer['version']}: {flaw['id']}, mended in {fixed}")
    print(f"{len(answers) - len(skipped)} packages audited, {len(found)} vulnerabilities")
    if skipped:
        print(f"not audited, the database does not know them: {', '.join(skipped)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(audit(required()))
