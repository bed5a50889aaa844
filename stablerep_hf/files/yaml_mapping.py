"""Settings from a YAML file, read as YAML 1.2 reads them and bounded in size."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..errors import InputError, one_line

MAX_CHARACTERS = 1_000_000


class _Loader(yaml.SafeLoader):
    """Plain values only: no aliases, which a few lines can blow up to gigabytes; `no` and `on` are words.

    A key that is there twice, with a dash or an underscore, is an error: else the last value would win in silence.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  # as SafeLoader has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "float")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value).replace("-", "_")
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(  # 1e-3 too, which YAML 1.1 takes for a word
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def read_mapping(text: str, source: str) -> dict[str, Any]:
    """Read lines of `key: value`; dashes in keys become underscores.

    Args:
        text: YAML. `true` and `false` alone are booleans, `1e-3` is a number; aliases and repeated keys are refused.
        source: What to call it in an error, such as "config=run.yaml".

    Raises:
        InputError: It is not YAML, not a mapping, or too large.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{source} has {len(text):,} characters, too many for settings: name a YAML file of settings."
        )
    try:
        values = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{source} is not YAML that can be read ({one_line(error)}): correct it.") from error
    if not isinstance(values, dict):
        raise InputError(f"{source} holds no 'key: value' lines: write one a setting, without dashes before it.")
    return {str(key).replace("-", "_"): value for key, value in values.items()}
