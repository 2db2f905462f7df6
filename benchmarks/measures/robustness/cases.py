"""Cases of the fuzzer, run in processes of their own: a reader and numbers of cases -> what the reader did with each.

A case passes if the reader returns, or raises a FeatvizError of one printable sentence. It fails on any other error, on a
crash, after `SECONDS`, on an allocation of more than the reader's `memory`, on a file that was written, and if code of the
input ran: a program was started, a class was looked up for unpickling, or the canary of `mutations.py` exists.
"""

import contextlib
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from featviz.errors import FeatvizError
from measures.robustness.hostile import CANARY
from measures.robustness.mutations import Example, File, Folder, mutate

SECONDS = 5.0
MOST_CHARACTERS = 2000  # of a sentence
BATCH = 2000  # cases of one process
PROGRAMS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "socket.connect",
)
FILES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NO_MEMORY = ("allocate memory", "unable to allocate", "not enough memory", "bad_alloc", "cannot allocate")


@dataclass(frozen=True)
class Reader:
    """Something that reads what comes from outside.

    Args:
        name: of the row in the table, and of `--reader`.
        examples: returns valid inputs; a case is one of them, mutated.
        read: called with a text, the path of a file or folder, or a dictionary of keyword arguments; it should use what it has
            read, so that a value that cannot be used is found.
        cases: in a full run.
        memory: bytes that reading may allocate.
    """

    name: str
    examples: Callable[[], Sequence[Example]]
    read: Callable[[Any], object]
    cases: int = 10_000
    memory: int = 256 * 2**20


@dataclass(frozen=True)
class Failure:
    """What went wrong with one case, and `where`: the last line of featviz that was reached."""

    seed: int
    kind: str
    text: str
    where: str = ""
    trace: str = ""


@dataclass
class Outcome:
    """Of many cases of one reader."""

    returned: int = 0
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.returned + self.refused + len(self.failures)

    def kinds(self) -> Counter[tuple[str, str, str]]:
        """(kind, beginning of the text, line) -> how many failures."""
        return Counter((one.kind, one.text.partition("(")[0][:60], one.where) for one in self.failures)


def run(reader: Reader, seeds: Sequence[int], progress: Callable[[int], object] = lambda cases: None) -> Outcome:
    """All cases of these numbers; a process that crashes or hangs loses only the case at which it did."""
    examples = reader.examples()
    for number, example in enumerate(examples):
        found = _run_all(reader, [example], [number], changed=False, progress=progress)
        if found.failures or found.refused:
            raise ValueError(f"{reader.name}: example {number} is not valid, {found.failures or 'it is refused'}")
    return _run_all(reader, examples, seeds, changed=True, progress=progress)


def _run_all(
    reader: Reader, examples: Sequence[Example], seeds: Sequence[int], changed: bool, progress: Callable[[int], object]
) -> Outcome:
    context = multiprocessing.get_context("fork")  # the reader's modules and examples are there at once
    total, repeated = Outcome(), -1
    left = list(seeds)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as home:
        while left:
            slot = context.RawArray("d", 2)  # number of cases done, and when the present one began
            slot[1] = time.monotonic()
            receiving, sending = context.Pipe(duplex=False)
            batch = left[:BATCH]
            arguments = (reader, examples, batch, changed, Path(home), slot, sending)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            sending.close()
            results, hung = _collect(process, receiving, slot)
            for result in results:
                if isinstance(result, Failure):
                    total.failures.append(result)
                else:
                    total.returned += result == "returned"
                    total.refused += result == "refused"
            done = len(results)
            if done < len(batch):
                seed = batch[done]
                if hung and repeated != seed:
                    repeated = seed  # once more, since other processes may have taken the time
                else:
                    text = f"no end after {SECONDS:g} s" if hung else f"the process ended with {process.exitcode}"
                    total.failures.append(Failure(seed, "hang" if hung else "crash", text))
                    done += 1
            left = left[done:]
            progress(done)
    return total


def _collect(process: Any, receiving: Any, slot: Any) -> tuple[list[str | Failure], bool]:
    """What a process reported, and whether it had to be ended."""
    results: list[str | Failure] = []
    hung = False
    while True:
        try:
            if receiving.poll(0.2):
                results += receiving.recv()
                continue
        except EOFError:
            break
        if time.monotonic() - slot[1] > SECONDS:
            hung = True
            process.kill()
            break
    process.join()
    done = int(slot[0])
    while len(results) < done:  # told by the slot alone: passed since the last report, or lost with the process
        results.append("refused")
    return results, hung


def _work(
    reader: Reader,
    examples: Sequence[Example],
    seeds: Iterable[int],
    changed: bool,
    home: Path,
    slot: Any,
    sending: Any,
) -> None:
    """In the child: every case, reported one by one where it failed and else in batches."""
    torch.set_num_threads(1)  # the threads of the parent are not in its child, which would wait for them
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # C libraries complain there
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    place = home / str(os.getpid())
    place.mkdir()
    os.chdir(place)
    with contextlib.suppress(FeatvizError):
        reader.read(write(examples[0], Path("case")))  # modules are imported before anything is watched
    shutil.rmtree("case", ignore_errors=True)
    watch = _Watch(place)
    sys.addaudithook(watch)
    waiting: list[str | Failure] = []
    for seed in seeds:
        slot[1] = time.monotonic()
        random = Random(f"{reader.name}:{seed}")
        example = random.choice(examples)
        result = _case(reader, mutate(example, random) if changed else example, seed, watch)
        waiting.append(result)
        if len(waiting) >= 50 or isinstance(result, Failure):
            sending.send(waiting)
            waiting = []
        slot[0] += 1
    sending.send(waiting)
    os.chdir(home)
    shutil.rmtree(place, ignore_errors=True)


class _Watch:
    """An audit hook that notes what a reader must not do."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.on = False
        self.found: list[str] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event in PROGRAMS:
            self.found.append(f"code: {event} {arguments!r:.200}")
        elif (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING and self._outside(arguments[0])
        ):
            self.found.append(f"file: open {arguments!r:.200}")
        elif event in FILES and self._outside(arguments[0]):
            self.found.append(f"file: {event} {arguments!r:.200}")

    def _outside(self, path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        found = os.path.abspath(os.fsdecode(path))
        return found != os.devnull and not found.startswith(self.folder)


def _case(reader: Reader, example: Example, seed: int, watch: _Watch) -> str | Failure:
    """In the child: one case, in the current folder."""
    given = write(example, Path("case"))
    before = _paths()
    held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (held + reader.memory, hard))
    watch.found, watch.on = [], True
    error: BaseException | None = None
    try:
        reader.read(given)
    except BaseException as raised:
        error = raised
    watch.on = False
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    code = os.path.exists(CANARY)
    new = _paths() - before
    shutil.rmtree("case", ignore_errors=True)
    for path in new:
        with contextlib.suppress(OSError):
            os.unlink(path)
    where, trace = _where(error), "".join(traceback.format_exception(error))[-6000:] if error else ""
    if code or any(one.startswith("code") for one in watch.found):
        return Failure(seed, "code", "; ".join(watch.found) or "the canary exists", where, trace)
    if new or watch.found:
        return Failure(seed, "file", "; ".join([*watch.found, *map(str, new)]), where, trace)
    if error is None:
        return "returned"
    if _lacked_memory(error):
        return Failure(seed, "memory", _shown(error), where, trace)
    if not isinstance(error, FeatvizError):
        return Failure(seed, "other error", _shown(error), where, trace)
    sentence = str(error)
    if not sentence.isprintable() or not sentence.endswith((".", "?")) or len(sentence) > MOST_CHARACTERS:
        return Failure(seed, "no sentence", _shown(error), where, trace)
    return "refused"


def write(example: Example, place: Path) -> Any:
    """What the reader is given: a text, keyword arguments, or the path of a file or folder that is made at `place`."""
    if isinstance(example, File):
        place.mkdir()
        _write_file(example, place / example.name)
        return place / example.name
    if isinstance(example, Folder):
        for path, file in example.files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            _write_file(file, place / path)
        return place
    return example


def _write_file(file: File, path: Path) -> None:
    if file.place == "folder":
        path.mkdir()
    elif file.place == "loop":
        path.symlink_to(path.name)
    elif file.place == "pipe":
        os.mkfifo(path)
    elif file.place == "zeros":
        path.symlink_to("/dev/zero")
    elif file.place != "missing":
        path.write_bytes(file.content)
        if file.place == "sparse":
            os.truncate(path, 3 * 2**30)
        elif file.place == "no rights":
            path.chmod(0)


def _paths() -> set[str]:
    return {os.path.join(folder, name) for folder, folders, files in os.walk(".") for name in (*folders, *files)}


def _lacked_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or any(text in str(error).lower() for text in NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _where(error: BaseException | None) -> str:
    """The last line of featviz on the way to an error: `units.py:48`."""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    own = [frame for frame in frames if "/featviz/" in frame.filename and "/benchmarks/" not in frame.filename]
    return f"{own[-1].filename.rpartition('/featviz/')[2]}:{own[-1].lineno}" if own else ""


def _shown(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as other:
        text = f"<its text: {type(other).__name__}>"
    return f"{type(error).__name__}({text[:300]!a})"
