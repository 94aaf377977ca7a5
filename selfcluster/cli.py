"""The command line. Modules that import torch are loaded by the commands that need them, so that `--help` is fast."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from selfcluster.errors import ConfigError, Interrupted, SelfclusterError, known
from selfcluster.formatting import command as pasted
from selfcluster.formatting import visible
from selfcluster.paths import check_checkpoint, check_images, check_run
from selfcluster.settings.commands import (
    Apply,
    Assign,
    Cluster,
    Completion,
    Demo,
    Doctor,
    Embed,
    Evaluate,
    Explore,
    Export,
    Import,
    Output,
    Report,
    Train,
)
from selfcluster.settings.config import BUNDLED
from selfcluster.settings.parser import parse, parse_train

if TYPE_CHECKING:
    import pyarrow as pa

    from selfcluster.data.dataset import Data
    from selfcluster.terminal import TerminalHandler


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command. Exit statuses: 0, 2 for a user's mistake, 3 for a collapse, 4 for a lost rank, 128 + n after signal n."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # When a rank is lost, torch's threads print stack traces beside the line that says so.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    command, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if command in ("-h", "--help"):
            print(_overview())
        elif command in ("-V", "--version"):
            from importlib.metadata import version

            print(f"selfcluster {version('selfcluster')}")
        else:
            _run(known(command, _COMMANDS, "command"), arguments)
    except SelfclusterError as error:
        _exit(str(error), error.exit_status)
    except Interrupted as interrupted:
        _exit(str(interrupted), interrupted.exit_status, kind="")
    except OSError as error:
        advice = "; free some space, and try again" if "No space left" in str(error) else ""
        _exit(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}{advice}", 2)
    except (RuntimeError, MemoryError) as error:
        if "operator torchvision::" in str(error):
            _exit(_mismatch(error), 2)
        if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        training = "lower --batch, or use a smaller --encoder or --crop-pixels"
        _exit(f"out of memory; {training if command == 'train' else 'use --device cpu, or fewer images'}", 2)
    except KeyboardInterrupt:
        _exit("stopped", 130)


def _exit(message: str, status: int, *, kind: str = "error: ") -> NoReturn:
    if _is_first_to_stop():
        print(visible(f"selfcluster: {kind}{' '.join(message.split())}"), file=sys.stderr)
    sys.exit(status)


def _mismatch(error: Exception) -> str:
    """Return what to do about a torchvision that was built for another torch, and so cannot be imported."""
    from importlib.metadata import version

    builds = f"torch {version('torch')} and torchvision {version('torchvision')}"
    install = "pip install --force-reinstall torch torchvision"
    cpu = "--index-url https://download.pytorch.org/whl/cpu"
    return f"{builds} do not go together ({error}); install both from one index: {install} (for CPUs alone, add {cpu})"


def _is_first_to_stop() -> bool:
    ranks = sys.modules.get("selfcluster.ranks")  # without it there are none
    return ranks is None or ranks.is_first_to_stop()


class _Answer:
    """What a command prints on stdout: lines for people, or values as JSON.

    Args:
        as_json: whether values are asked for.
        make_room: is called before a line is printed.
    """

    def __init__(self, *, as_json: bool, make_room: Callable[[], None]) -> None:
        self._as_json, self._make_room = as_json, make_room
        self._values: dict[str, Any] = {}

    def __call__(self, said: object = None, **values: Any) -> None:
        """Print a text, or keep values for the JSON."""
        self._values |= values
        if said is not None and not self._as_json:
            self._make_room()
            print(visible(str(said)))

    def finish(self) -> None:
        """Print the values, if they were asked for; other ranks have none."""
        if self._as_json and self._values:
            print(json.dumps(self._values, indent=1, default=str))


def _overview() -> str:
    commands = [f"  {name:<10}{(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in _COMMANDS.items()]
    lines = ["usage: selfcluster COMMAND ...", "", "Learn image representations from unlabeled images by clustering.", "", *commands, ""]
    return "\n".join([*lines, "See selfcluster COMMAND --help for the arguments of a command. Start with: selfcluster demo"])


def _run(command: str, words: list[str]) -> None:
    kind, function = _COMMANDS[command]
    arguments = parse_train(words) if kind is Train else parse(command, kind, words)
    if kind is not Train and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{command} runs in one process; start it without torchrun")
    _check_paths(arguments)
    if isinstance(arguments, (Explore, Train)):
        _begin_check_of_hub(arguments)
    with _log_on_terminal(arguments) as handler:
        say = _Answer(as_json=getattr(arguments, "json", False), make_room=handler.make_room)
        if os.environ.get("RANK", "0") == "0":
            handler.begin("loading")
        function(arguments, say)
    say.finish()


def _check_paths(arguments: Any) -> None:
    """Check that the images and the run exist, before a command loads torch."""
    if hasattr(arguments, "run"):
        check_run(Path(arguments.run))
    elif isinstance(arguments, Train) and arguments.resume is True and arguments.out:
        check_run(Path(arguments.out))
    elif isinstance(arguments, Import):
        check_checkpoint(arguments.file)
    for images in (getattr(arguments, "images", None), getattr(arguments, "test", None)):
        if images:
            check_images(images)


def _begin_check_of_hub(arguments: Any) -> None:
    """Begin to find out whether there is a connection while torch is loading, if weights may have to be downloaded."""
    given = arguments.settings if isinstance(arguments, Train) else vars(arguments)
    wanted = given.get("encoder") if given.get("init") == "pretrained" else given.get("init")
    if wanted not in (None, "random", "patches", BUNDLED) and not Path(wanted).expanduser().exists():
        from selfcluster import hub

        hub.begin_check()


@contextlib.contextmanager
def _log_on_terminal(arguments: Any) -> Iterator[TerminalHandler]:
    """Write what the package logs to stderr."""
    from selfcluster.terminal import TerminalHandler

    output = arguments if isinstance(arguments, Output) else Output()
    logger, handler = logging.getLogger("selfcluster"), TerminalHandler(quiet=output.quiet, verbose=output.verbose)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(handler.level)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def _explore(arguments: Explore, say: _Answer) -> None:
    from selfcluster.inference.cluster_description import describe, figures_of
    from selfcluster.inference.cluster_table import TABLE
    from selfcluster.inference.explore import explore
    from selfcluster.reporting.report import report

    own = {field.name for field in dataclasses.fields(Explore)} - {field.name for field in dataclasses.fields(Output)} - {"images"}
    run, clusters = explore(arguments.images, **{name: getattr(arguments, name) for name in own})
    page = report(run)
    say(describe(clusters), run=run.path, **figures_of(clusters.table))
    say(f"table: {run.path / TABLE}", table=run.path / TABLE)
    say(f"page, {page.stat().st_size / 1e6:.1f} MB: {page.resolve().as_uri()}", page=page)
    say(f"next: name clusters on the page, export the names, and {pasted('apply', str(run.path), 'NAMES.csv', '--copy-to', 'FOLDER')}")
    if arguments.encoder != "patches":
        say(f"to adapt the encoder to these images: {pasted('train', arguments.images, '--init', str(run.path))}")


def _train(arguments: Train, say: _Answer) -> None:
    from selfcluster import distributed
    from selfcluster.api import train
    from selfcluster.runs.manifest import is_labeled
    from selfcluster.training.train import dry_run

    choices = {name: getattr(arguments, name) for name in ("method", "preset", "config", "augmentation")} | dict(arguments.settings)
    if arguments.dry_run:
        if arguments.resume or arguments.from_ is not None:
            raise ConfigError("--dry-run shows the settings of a new run; leave --resume and --from out")
        dry_run(arguments.images, **choices)
        return
    run = train(
        arguments.images, out=arguments.out, resume=arguments.resume, from_step=arguments.from_, overwrite=arguments.overwrite, **choices
    )
    if distributed.rank() == 0:
        last = {name: value for row in run.metrics for name, value in row.items()}
        say(f"next: {pasted('evaluate' if is_labeled(run.path) else 'report', str(run.path))}", run=run.path, metrics=last)
    distributed.stop()


def _evaluate(arguments: Evaluate, say: _Answer) -> None:
    from selfcluster.api import load

    result = load(arguments.run, device=arguments.device).evaluate(
        arguments.images,
        test=arguments.test,
        test_share=arguments.test_share,
        labels=arguments.labels,
        only=arguments.only,
        finetune=arguments.finetune,
        finetune_minutes=arguments.finetune_minutes,
        beside=arguments.beside,
        beside_untrained=arguments.beside_untrained,
        baselines=not arguments.no_baselines,
    )
    say(result, figures=result.figures, notes=result.notes)
    say(f"written: {result.file}", file=result.file)
    say(f"next: {pasted('report', arguments.run, arguments.images)}")


def _embed(arguments: Embed, say: _Answer) -> None:
    from selfcluster.inference.cluster_table import TABLE
    from selfcluster.inference.embedding_files import write_embeddings
    from selfcluster.runs.run import open_run

    run = open_run(arguments.run, device=arguments.device)
    written = write_embeddings(run, arguments.images, out=arguments.out, layer=arguments.layer, overwrite=arguments.overwrite)
    unreadable = f"; {written.n_unreadable:,} could not be read" if written.n_unreadable else ""
    speed = f"{written.n_computed / max(written.seconds, 1e-9):,.0f} images/s" if written.n_computed else "computed before"
    say(
        f"{written.n:,} embeddings of width {written.width}, {speed}{unreadable}: {written.file}",
        images=written.n,
        width=written.width,
        unreadable=written.n_unreadable,
        file=written.file,
    )
    next_verb = "report" if (run.path / TABLE).is_file() else "cluster"  # cluster would replace those that are there
    say(f"next: {pasted(next_verb, arguments.run, arguments.images)}")


def _cluster(arguments: Cluster, say: _Answer) -> None:
    from selfcluster.inference.cluster_description import describe, figures_of
    from selfcluster.inference.cluster_table import TABLE
    from selfcluster.inference.clusters import cluster, is_kept
    from selfcluster.runs.run import open_run

    run = open_run(arguments.run, device=arguments.device)
    data = run.data(arguments.images)
    _check_outputs(arguments, data)
    clusters = cluster(run, data, k=arguments.k, seed=arguments.seed, projection=arguments.map, keep=True)
    say(describe(clusters), run=run.path, **figures_of(clusters.table))
    if is_kept(run, data):
        say(f"table: {run.path / TABLE}", table=run.path / TABLE)
    elif not arguments.out:
        say("these are not the run's own images, so their table is not kept; --out FILE writes it")
    _write_outputs(arguments, clusters.table, data, say)
    say(f"next: {pasted('report', arguments.run, arguments.images)}")


def _apply(arguments: Apply, say: _Answer) -> None:
    from selfcluster.inference.cluster_description import describe, figures_of
    from selfcluster.inference.renaming import apply
    from selfcluster.runs.run import open_run

    run = open_run(arguments.run, device=arguments.device)
    data = run.data()
    _check_outputs(arguments, data)
    clusters = apply(run, arguments.names)
    say(describe(clusters), run=run.path, **figures_of(clusters.table))
    _write_outputs(arguments, clusters.table, data, say)
    say(f"next: {pasted('report', arguments.run)}, or {pasted('assign', arguments.run, 'NEW-IMAGES')}")


def _assign(arguments: Assign, say: _Answer) -> None:
    from selfcluster.inference.centroids import read_centroids
    from selfcluster.inference.cluster_description import describe_assigned, figures_of
    from selfcluster.inference.clusters import assign
    from selfcluster.runs.run import open_run

    run = open_run(arguments.run, device=arguments.device)
    read_centroids(run.path)
    data = run.data(arguments.images)
    _check_outputs(arguments, data)
    table = assign(run, data).table
    say(describe_assigned(table), run=run.path, **figures_of(table))
    _write_outputs(arguments, table, data, say)


def _check_outputs(arguments: Cluster | Apply | Assign, data: Data) -> None:
    """Check, before the work, that the table and the copies can be written."""
    from selfcluster.inference.cluster_folders import check_sortable
    from selfcluster.runs.atomic import check_destination

    if arguments.out:
        check_destination(Path(arguments.out), (".parquet", ".csv"), overwrite=arguments.overwrite)
    if arguments.copy_to:
        check_sortable(Path(arguments.copy_to), data.images, links=arguments.links)
    elif arguments.links:
        raise ConfigError("--links needs --copy-to; add --copy-to FOLDER, or leave --links out")


def _write_outputs(arguments: Cluster | Apply | Assign, table: pa.Table, data: Data, say: _Answer) -> None:
    from selfcluster.inference.cluster_folders import sort_into
    from selfcluster.inference.cluster_table import write_table

    if arguments.out:
        write_table(table, Path(arguments.out))
        say(f"table: {arguments.out}", table=arguments.out)
    if arguments.copy_to:
        n = sort_into(Path(arguments.copy_to), table, data.images, links=arguments.links)
        say(f"{n:,} images sorted into {arguments.copy_to}", sorted=n, folder=arguments.copy_to)
        if not isinstance(arguments, Assign):
            say(f"to have these clusters again: {pasted('apply', arguments.run, os.path.join(arguments.copy_to, 'clusters.csv'))}")


def _report(arguments: Report, say: _Answer) -> None:
    from selfcluster.api import load
    from selfcluster.reporting.page import Limits

    limits = Limits(n_points=arguments.points, seed=arguments.seed)
    run = load(arguments.run, device=arguments.device)
    file = run.report(arguments.images, out=arguments.out, k=arguments.k, seed=arguments.seed, limits=limits)
    say(f"{file}: {file.stat().st_size / 1e6:.1f} MB", page=file, bytes=file.stat().st_size)
    say(f"next, in a browser: {file.resolve().as_uri()}")


def _export(arguments: Export, say: _Answer) -> None:
    from selfcluster.api import load

    done = load(arguments.run).export(arguments.format, out=arguments.out, layer=arguments.layer, overwrite=arguments.overwrite)
    say(done, folder=done.path, files=done.files, difference=str(done.difference), notes=done.notes)


def _import(arguments: Import, say: _Answer) -> None:
    from selfcluster.runs.convert import import_original

    run = import_original(arguments.file, arguments.out)
    say(
        f"wrote {run.path}: {run.config.method}, {run.config.model.encoder}, prototypes {' '.join(map(str, run.config.n_prototypes))}",
        run=run.path,
        method=run.config.method,
        encoder=run.config.model.encoder,
        prototypes=run.config.n_prototypes,
    )
    say("the license of the checkpoint also applies to this run (the originals' weights are CC BY-NC 4.0)")
    say(f"next: {pasted('evaluate', str(run.path))} IMAGES")


def _demo(arguments: Demo, say: _Answer) -> None:
    from selfcluster.api import train

    say("selfcluster demo: 1,797 handwritten digits, no labels used in training\n")
    run = train("digits", out=arguments.out, seed=arguments.seed)
    say("")
    say(run.evaluate())
    say("kNN is saturated: raw pixels of the digits reach 98 %. The clusters show what was learned.\n")
    say(f"look at them: {pasted('report', str(run.path))}")
    say("next, on your own images: selfcluster explore FOLDER")


def _doctor(arguments: Doctor, say: _Answer) -> None:
    from selfcluster import doctor

    for name, found in doctor.describe():
        say(f"{name:<16} {found}", **{name: found})
    if not arguments.quick:
        doctor.check(say)
        say(check="all well")


def _completion(arguments: Completion, say: _Answer) -> None:
    from selfcluster.settings.completion import script

    print(script(arguments.shell, {name: kind for name, (kind, _) in _COMMANDS.items()}))


_COMMANDS: dict[str, tuple[type, Callable[[Any, _Answer], None]]] = {
    "explore": (Explore, _explore),
    "train": (Train, _train),
    "evaluate": (Evaluate, _evaluate),
    "embed": (Embed, _embed),
    "cluster": (Cluster, _cluster),
    "apply": (Apply, _apply),
    "assign": (Assign, _assign),
    "report": (Report, _report),
    "export": (Export, _export),
    "import": (Import, _import),
    "demo": (Demo, _demo),
    "doctor": (Doctor, _doctor),
    "completion": (Completion, _completion),
}
"""In the order in which `--help` lists them."""
