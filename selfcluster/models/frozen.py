"""Encoders of which the first stages, or all, keep their weights; these frozen stages can run apart from the rest.

Stages are those that timm groups parameters into: the stem, and each of the following stages; layers after the last stage count to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from timm.models import get_notrace_functions, get_notrace_modules, group_parameters
from torch import fx, nn

from selfcluster.errors import ConfigError

_STAGE = re.compile(r"^(?:.*\.)?(?:blocks|stages|layers|layer|features|s)[._]?(\d+)\.")


class Parts(NamedTuple):
    """An encoder in two parts, one after the other; their parameters are those of the encoder."""

    frozen: nn.Module
    trained: nn.Module

    @property
    def is_cut(self) -> bool:
        """Whether the frozen stages are apart from the rest."""
        return not isinstance(self.frozen, nn.Identity)


def stages_of(encoder: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of the stem, and of each stage after it."""
    if not hasattr(encoder, "group_matcher"):
        return [[name for name, _ in encoder.named_parameters()]]
    groups = group_parameters(encoder, encoder.group_matcher(coarse=True))  # type: ignore[operator]
    stages = [groups[key] for key in sorted(groups)]
    if len(stages) > 2 and not any(_STAGE.match(name) for name in stages[-1]):
        stages[-2:] = [stages[-2] + stages[-1]]
    return stages


def freeze(encoder: nn.Module, stages: str, name: str) -> None:
    """Keep the weights of some stages from being trained.

    Args:
        encoder: whose parameters lose their `requires_grad`.
        stages: "none", "all", "but-last" (all but the last stage), or how many stages after the stem are frozen, together with it.
        name: of the encoder, for messages.
    Raises:
        ConfigError: the encoder has too few stages.
    """
    if stages == "none":
        return
    of_stages = stages_of(encoder)
    n = len(of_stages) if stages == "all" else len(of_stages) - 1 if stages == "but-last" else 1 + int(stages)
    if len(of_stages) == 1 and stages != "all":
        raise ConfigError(f"freeze {stages} cannot be used: timm does not tell the stages of encoder {name!r}; set --freeze to all or none")
    if n >= len(of_stages) and stages != "all":
        raise ConfigError(
            f"freeze {stages} leaves nothing to train: encoder {name!r} has {len(of_stages) - 1} stages; set --freeze to fewer, or to all"
        )
    kept = {parameter for stage in of_stages[:n] for parameter in stage}
    for parameter_name, parameter in encoder.named_parameters():
        if parameter_name in kept:
            parameter.requires_grad_(False)


def split(encoder: nn.Module) -> Parts:
    """Divide an encoder into the part before the first layer that is trained, and the rest.

    Args:
        encoder: some of whose parameters are frozen, in eval mode.
    Returns:
        two parts; if torch.fx cannot trace the encoder, or more than one tensor would pass between them, the first does nothing.
    """
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        return Parts(encoder, nn.Identity())
    try:
        nodes = list(_Tracer().trace(encoder).nodes)
    except Exception:  # control flow that depends on the input raises many types
        return Parts(nn.Identity(), encoder)
    trained = _depending_on_trained(encoder, nodes)
    # Values that are the same for every image: parameters, and further arguments of `forward` with their defaults.
    constant = {node for node in nodes[1:] if node.op in ("get_attr", "placeholder")}
    passed = {given for node in trained for given in node.all_input_nodes} - trained - constant
    if len(passed) != 1 or passed == {nodes[0]}:
        return Parts(nn.Identity(), encoder)
    (between,) = passed
    frozen = [node for node in nodes if node not in trained]
    rest = [node for node in nodes if node in trained or node in constant]
    return Parts(_part(encoder, frozen, result=between), _part(encoder, rest, given=between, result=nodes[-1].args[0]))


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(get_notrace_modules())) or super().is_leaf_module(m, module_qualified_name)


def _depending_on_trained(encoder: nn.Module, nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes whose values depend on parameters that are trained."""
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    found: set[fx.Node] = set()
    for node in nodes:
        learns = node.op == "call_module" and any(name.startswith(f"{node.target}.") for name in learning)
        uses = any(given in found or (given.op == "get_attr" and given.target in learning) for given in node.all_input_nodes)
        if (learns or uses) and node.op != "output":
            found.add(node)
    return found


def _part(encoder: nn.Module, nodes: Sequence[fx.Node], *, result: Any, given: fx.Node | None = None) -> nn.Module:
    """Return the network that computes `result` from `given`, or from the input of the encoder."""
    graph, copies = fx.Graph(), {}
    if given is not None:
        copies[given] = graph.placeholder("given")
    for node in nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda of: copies[of])
    graph.output(copies[result])
    module = fx.GraphModule(encoder, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
