"""The commands. No torch here until a command works, so that `--help` and a wrong flag answer at once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import tyro

from selfcluster.errors import ConfigError, Interrupted, SelfclusterError, known
from selfcluster.settings.commands import Assign, Cluster, Demo, Embed, Evaluate, Export, Import, Report, Train
from selfcluster.settings.config import DEFAULT_METHOD, METHOD_SETTINGS, default_config, flatten, known_setting


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exits with 0, 2 for a user's mistake, 3 for a collapse, 128 + n after signal n."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
        elif arguments[0] in ("-V", "--version"):
            from importlib.metadata import version

            print(f"selfcluster {version('selfcluster')}")
        else:
            _run(known(arguments[0], _COMMANDS, "command"), arguments[1:])
    except SelfclusterError as error:
        _leave(str(error), error.exit_status)
    except Interrupted as interrupted:
        print(f"selfcluster: {interrupted}", file=sys.stderr)
        sys.exit(interrupted.exit_status)
    except OSError as error:
        _leave(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        out = (
            "lower --batch, or take a smaller --encoder or --crop-pixels"
            if arguments[:1] == ["train"]
            else "take --device cpu, or fewer images"
        )
        _leave(f"out of memory; {out}", 2)
    except KeyboardInterrupt:
        _leave("stopped", 130)


def _leave(message: str, status: int) -> NoReturn:
    print(f"selfcluster: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _overview() -> str:
    lines = ["usage: selfcluster COMMAND ...", "", "Learns image representations from unlabeled images by clustering.", ""]
    lines += [f"  {name:<10}{(kind.__doc__ or '').strip()}" for name, (kind, _) in _COMMANDS.items()]
    return "\n".join([*lines, "", "selfcluster COMMAND --help tells the settings of each. Start with: selfcluster demo"])


def _parse(kind: Any, command: str, arguments: list[str], default: Any = None) -> Any:
    """tyro's reading of the arguments; what it complains of, in one line.

    Raises:
        ConfigError: a flag or value that cannot be.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = {} if default is None else {"default": default}
            return tyro.cli(kind, args=arguments, prog=f"selfcluster {command}", config=(tyro.conf.OmitArgPrefixes,), **given)
    except SystemExit as error:
        if not error.code:
            raise
        problem = _one_line(said.getvalue())
        if problem.startswith("Unrecognized") and sum(argument.endswith((".tar", ".parquet")) for argument in arguments) > 1:
            problem += "; a pattern of several files goes in quotes, such as 'shards/*.tar'"
        raise ConfigError(f"{problem}; see selfcluster {command} --help") from None


def _one_line(box: str) -> str:
    """The text of tyro's box down to its second rule, without the frame."""
    text = [line.strip("│╭╮╰╯ \n") for line in box.splitlines()]
    body = [line for line in text if line and not set(line) <= {"─", " "} and not re.match(r"^─ ", line)]
    end = next((i for i, line in enumerate(body) if line.startswith(("Argument helptext", "For full helptext"))), len(body))
    return " ".join(" ".join(body[:end]).split())


def _train(arguments: list[str]) -> None:
    method = _method_of(arguments)
    defaults = default_config(method)
    kind = Train[METHOD_SETTINGS[method]]  # type: ignore[valid-type]
    names = flatten(defaults)
    _check_flags(arguments, [*names, *(f.name for f in dataclasses.fields(Train) if f.name != "settings"), "help"], method)
    arguments, batch = _without_auto_batch(arguments)
    parsed = _parse(kind, "train", arguments, default=kind(settings=defaults))
    values = flatten(parsed.settings)
    given = {name: values[name] for name in names if _is_given(name, arguments)} | batch

    asked: dict[str, Any] = {"method": parsed.method or None, "preset": parsed.preset or None, "config": parsed.config or None, **given}

    from selfcluster import distributed
    from selfcluster.api import train
    from selfcluster.training.train import dry_run

    data = parsed.data or None
    if parsed.dry_run:
        if parsed.resume:
            raise ConfigError("--dry-run says what a new run would do; leave --resume out")
        with _speaking():
            dry_run(data, **asked)
        return
    with _speaking():
        run = train(data, out=parsed.out or None, resume=parsed.resume, overwrite=parsed.overwrite, **asked)
    if distributed.rank() == 0:
        print(f"next: selfcluster evaluate {shlex.quote(str(run.path))}")
    distributed.stop()


def _run(command: str, arguments: list[str]) -> None:
    """Any command but train, whose settings depend on the method, is read and done here."""
    kind, does = _COMMANDS[command]
    if kind is Train:
        _train(arguments)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{command} runs in one process; start it without torchrun")
    _check_flags(arguments, [*(f.name for f in dataclasses.fields(kind)), "help"])
    parsed = _parse(kind, command, arguments)
    with _speaking():
        does(parsed)


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """Inside, what the package logs is on stderr."""
    from selfcluster.terminal import TerminalHandler

    logger, handler = logging.getLogger("selfcluster"), TerminalHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(handler.level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def _evaluate(parsed: Evaluate) -> None:
    from selfcluster.api import load

    result = load(parsed.run, device=parsed.device).evaluate(
        parsed.data or None,
        test=parsed.test or None,
        test_share=parsed.test_share,
        labels=parsed.labels,
        only=parsed.only,
        finetune=parsed.finetune,
        finetune_minutes=parsed.finetune_minutes,
        beside=parsed.beside,
        beside_untrained=parsed.beside_untrained,
    )
    print(result)
    print(f"written: {result.file}")
    print(f"next: {_command('report', parsed.run, parsed.data)}")


def _embed(parsed: Embed) -> None:
    from selfcluster.inference.embeddings import write_embeddings
    from selfcluster.runs.run import open_run

    run = open_run(parsed.run, device=parsed.device)
    found = write_embeddings(run, parsed.data or None, out=parsed.out, layer=parsed.layer, overwrite=parsed.overwrite)
    unreadable = f"; {found.n_unreadable:,} could not be read" if found.n_unreadable else ""
    speed = f"{found.n_computed / max(found.seconds, 1e-9):,.0f} images/s" if found.n_computed else "kept from before"
    print(f"{found.n:,} embeddings of {found.width} numbers, {speed}{unreadable}: {found.file}")
    print(f"next: {_command('cluster', parsed.run, parsed.data)}")


def _cluster(parsed: Cluster) -> None:
    from pathlib import Path

    from selfcluster.inference.cluster_folders import sort_into
    from selfcluster.inference.clusters import cluster, describe, write_table
    from selfcluster.runs.atomic import check_destination
    from selfcluster.runs.run import open_run

    k = _number_or_auto(parsed.k)
    run = open_run(parsed.run, device=parsed.device)
    data = run.data(parsed.data or None)
    if parsed.out:
        check_destination(Path(parsed.out), (".parquet", ".csv"), overwrite=parsed.overwrite)
    _check_copying(parsed, data)
    found = cluster(run, data, k=k, seed=parsed.seed, projection=parsed.map, keep=True)
    print(describe(found))
    print(f"table: {run.path / 'clusters.parquet'}")
    if parsed.out:
        write_table(found.table, Path(parsed.out))
        print(f"table: {parsed.out}")
    if parsed.copy_to:
        n = sort_into(Path(parsed.copy_to), found.table, data.images, links=parsed.links)
        print(f"{n:,} images sorted into {parsed.copy_to}")
    print(f"next: {_command('report', parsed.run, parsed.data)}")


def _command(verb: str, *words: str) -> str:
    """A command to paste, with those words that there are."""
    return shlex.join(["selfcluster", verb, *(word for word in words if word)])


def _check_copying(parsed: Cluster | Assign, data: Any) -> None:
    from pathlib import Path

    from selfcluster.inference.cluster_folders import check_sortable

    if parsed.copy_to:
        check_sortable(Path(parsed.copy_to), data.images, links=parsed.links)
    elif parsed.links:
        raise ConfigError("--links says how --copy-to puts images into folders; name a folder with --copy-to, or leave it out")


def _number_or_auto(k: str) -> Any:
    if k in ("", "auto"):
        return k or None
    if not k.isdecimal():
        raise ConfigError(f"--k {k!r} must be a number of clusters, or auto")
    return int(k)


def _assign(parsed: Assign) -> None:
    from pathlib import Path

    from selfcluster.inference.cluster_folders import sort_into
    from selfcluster.inference.clusters import assign, describe_assigned, read_centroids, write_table
    from selfcluster.runs.atomic import check_destination
    from selfcluster.runs.run import open_run

    run = open_run(parsed.run, device=parsed.device)
    read_centroids(run.path)
    data = run.data(parsed.data)
    check_destination(Path(parsed.out), (".parquet", ".csv"), overwrite=parsed.overwrite)
    _check_copying(parsed, data)
    table = assign(run, data).table
    write_table(table, Path(parsed.out))
    print(describe_assigned(table))
    print(f"table: {parsed.out}")
    if parsed.copy_to:
        print(f"{sort_into(Path(parsed.copy_to), table, data.images, links=parsed.links):,} images sorted into {parsed.copy_to}")


def _export(parsed: Export) -> None:
    from selfcluster.api import load

    print(load(parsed.run).export(parsed.format, out=parsed.out or None, layer=parsed.layer, overwrite=parsed.overwrite))


def _import(parsed: Import) -> None:
    from selfcluster.runs.convert import import_original

    run = import_original(parsed.file, parsed.out or None)
    print(f"wrote {run.path}: {run.config.method}, {run.config.model.encoder}, prototypes {' '.join(map(str, run.config.n_prototypes))}")
    print("the license of the file binds what you make of it (that of the originals' weights is CC BY-NC 4.0)")
    print(f"next: selfcluster evaluate {shlex.quote(str(run.path))} DATA")


def _report(parsed: Report) -> None:
    from selfcluster.api import load
    from selfcluster.reporting.page import Limits

    k, limits = _number_or_auto(parsed.k), Limits(points=parsed.points, seed=parsed.seed)
    run = load(parsed.run, device=parsed.device)
    file = run.report(parsed.data or None, out=parsed.out or None, k=k, seed=parsed.seed, limits=limits)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    print(f"next, in a browser: {file.resolve().as_uri()}")


def _demo(parsed: Demo) -> None:
    from selfcluster.api import train

    print("selfcluster demo: 1,797 handwritten digits, no labels used in training\n")
    run = train("digits", out=parsed.out or None, seed=parsed.seed)
    print()
    print(run.evaluate())
    print("kNN is saturated: raw pixels of the digits reach 98 %. The clusters show what was learned.\n")
    print(f"look at them: selfcluster report {shlex.quote(str(run.path))}")
    print("next, on your own images: selfcluster train FOLDER --dry-run")


_COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (Train, _train),
    "evaluate": (Evaluate, _evaluate),
    "embed": (Embed, _embed),
    "cluster": (Cluster, _cluster),
    "assign": (Assign, _assign),
    "report": (Report, _report),
    "export": (Export, _export),
    "import": (Import, _import),
    "demo": (Demo, _demo),
}
"""In the order in which they are listed."""


def _flag(argument: str) -> str | None:
    """The setting that an argument names, if it is a flag: `--n-crops=2` gives n_crops, `--no-resume` gives resume."""
    if not argument.startswith("--"):
        return None
    return argument[2:].split("=")[0].replace("-", "_")


def _is_given(name: str, arguments: Sequence[str]) -> bool:
    return any(_flag(argument) in (name, f"no_{name}") for argument in arguments)


def _without_auto_batch(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """`--batch auto` is taken out, since the setting is a number, and given as a setting of its own."""
    if _value_of("--batch", arguments) != "auto":
        return arguments, {}
    at = next(i for i, argument in enumerate(arguments) if argument.split("=")[0] == "--batch")
    return arguments[:at] + arguments[at + (1 if "=" in arguments[at] else 2) :], {"batch": "auto"}


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of a flag, before the whole line is read."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument == flag:
            return following
        if argument.startswith(f"{flag}="):
            return argument.split("=", 1)[1]
    return None


def _method_of(arguments: Sequence[str]) -> str:
    """The method that the arguments are for, before the whole line is read."""
    if (method := _value_of("--method", arguments)) is not None:
        return known(method, METHOD_SETTINGS, "method")
    from pathlib import Path

    from selfcluster.settings.toml import read_toml

    file = Path(_value_of("--out", arguments) or "") / "config.toml" if "--resume" in arguments else _value_of("--config", arguments)
    top = read_toml(Path(file))[0] if file is not None and (Path(file).is_file() or "--config" in arguments) else {}
    if (preset := _value_of("--preset", arguments) or top.get("preset")) is not None:
        from selfcluster.settings.presets import method_of

        return method_of(preset)
    return known(top.get("method", DEFAULT_METHOD), METHOD_SETTINGS, "method")


def _check_flags(arguments: Sequence[str], names: Sequence[str], method: str = "") -> None:
    """Raises ConfigError at a flag that is none, with the nearest right one."""
    for argument in arguments:
        name = _flag(argument)
        if name is not None and name not in names and name.removeprefix("no_") not in names:
            try:
                known_setting(name, names, "flag", method) if method else known(name, names, "flag")
            except ConfigError as error:
                raise ConfigError(re.sub(r"'(\w+)'", lambda m: f"--{m[1].replace('_', '-')}", str(error))) from None
