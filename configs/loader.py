"""YAML files -> the frozen config tree.

    file -> extends: (base files, deep-merged, lists replaced) -> overrides (dotted.key=value) -> Run

Every value remembers where it was written, so that an error names file, line and key, and for an unknown key the nearest
valid one. Nothing is repaired.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from configs.errors import UserError
from configs.schema.run import Run

NEAREST_CUTOFF = 0.5
"""difflib ratio above which a valid key is offered for an unknown one; `learning_rte` and `learning_rate` have 0.96."""

YAML_TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = (f"{YAML_TAG}map", f"{YAML_TAG}seq")
"""Of mappings and lists that are written without a tag."""


class ConfigError(UserError, ValueError):
    """What is wrong, where, and how to mend it; one line per problem."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


Path_ = tuple[str, ...]
Origins = dict[Path_, Origin]


@dataclass(frozen=True)
class Loaded:
    """A config and the file it came from."""

    run: Run
    file: str


def load_run(file: str, overrides: tuple[str, ...] = ()) -> Loaded:
    """Reads, merges and checks a run file. Raises ConfigError."""
    values, origins = _read(Path(file), ())
    for override in overrides:
        _apply(override, values, origins)
    try:
        return Loaded(Run.model_validate(values), file)
    except ValidationError as error:
        lines = [_describe(problem, values, origins, file) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def schema() -> dict[str, Any]:
    """JSON Schema of a run file, for editors."""
    described = Run.model_json_schema()
    described["properties"]["extends"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "Run files whose values this one builds on; deep-merged, lists replaced.",
    }
    return described


def _read(file: Path, readers: tuple[Path, ...]) -> tuple[dict[str, Any], Origins]:
    if file.resolve() in readers:
        raise ConfigError(f"{file}: `extends` leads back to this file")
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{file}: cannot be read as YAML: brackets inside brackets without end") from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{file}: expected a mapping of keys at the top")
    origins: Origins = {}
    own = cast(dict[str, Any], _construct(root, (), str(file), origins))
    bases = own.pop("extends", [])
    values: dict[str, Any] = {}
    merged: Origins = {}
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{origins[('extends',)]}: `extends` takes a file name or a list of file names")
    for base in bases:
        base_values, base_origins = _read(file.parent / base, (*readers, file.resolve()))
        values = _merge(values, base_values)
        merged |= base_origins
    return _merge(values, own), merged | origins


def _construct(node: yaml.Node, path: Path_, file: str, origins: Origins, around: tuple[yaml.Node, ...] = ()) -> Any:
    """Python values of a YAML node; notes the line of each key, refuses a key that is given twice.

    Args:
        around: the nodes that this one lies in; an alias to one of them has no value.
    """
    start = Origin(file, node.start_mark.line + 1)
    if any(node is outer for outer in around):
        raise ConfigError(f"{start}: `{'.'.join(path)}`: an alias to what it lies in; write the value itself")
    around = (*around, node)
    if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN_TAGS:
        raise ConfigError(f"{start}: `{'.'.join(path)}` has the tag {_tag(node)}, and tags are not read; leave it out")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = Origin(file, key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(
                    f"{where}: a key of `{'.'.join(path) or 'the file'}` is a list or mapping; keys are words"
                )
            key = str(key_node.value)
            if key_node.tag == f"{YAML_TAG}merge":
                raise ConfigError(
                    f"{where}: YAML's merge key `<<` is not read; put shared keys in a file and `extends:` it"
                )
            if key in result:
                raise ConfigError(f"{where}: `{'.'.join((*path, key))}` is given twice")
            origins[(*path, key)] = where
            result[key] = _construct(value_node, (*path, key), file, origins, around)
        return result
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            origins[(*path, str(index))] = Origin(file, item.start_mark.line + 1)
            items.append(_construct(item, (*path, str(index)), file, origins, around))
        return items
    return _scalar(node, path, file)


def _scalar(node: yaml.Node, path: Path_, file: str) -> Any:
    where = Origin(file, node.start_mark.line + 1)
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{where}: `{'.'.join(path)}` has the tag {_tag(node)}, which is not read; leave it out"
        ) from error
    except ValueError as error:
        # `2024-13-45` looks like a date to YAML, and `!!int abc` claims to be a number.
        raise ConfigError(
            f"{where}: `{'.'.join(path)}`: {node.value!r} is read as {_tag(node)}, which it is not ({error}); put it in quotes "
            "to make it text"
        ) from error
    finally:
        loader.dispose()
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        number = float(value)  # YAML 1.1 reads 2e-5 as a string; everybody means the number
        return int(number) if number.is_integer() else number  # 1e3 steps are whole ones
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ConfigError(f"{where}: `{'.'.join(path)}` is a {type(value).__name__}; put it in quotes to make it text")
    return value


def _tag(node: yaml.Node) -> str:
    """As it is written: !foo, !!int."""
    return node.tag.replace(YAML_TAG, "!!")


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _apply(override: str, values: dict[str, Any], origins: Origins) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected dotted.key=value, e.g. stages.cpt.steps=10")
    where = f"override {override!r}"
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: the value is not YAML") from error
    path = tuple(key.split("."))
    target = values
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{where}: `{part}` is a value, not a group of keys")
    target[path[-1]] = None if node is None else _construct(node, path, where, origins)
    for length in range(1, len(path) + 1):
        origins.setdefault(path[:length], Origin(where, 0))
    origins[path] = Origin(where, 0)


def _describe(problem: Any, values: dict[str, Any], origins: Origins, file: str) -> str:
    path = _written_path(problem["loc"], values, problem["type"])
    where = _origin(path, origins, file)
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(path[:-1], values)
        nearest = difflib.get_close_matches(path[-1], valid, n=1, cutoff=NEAREST_CUTOFF)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"valid here: {', '.join(valid)}"
        return f"{where}: unknown key `{name}`; {hint}"
    if problem["type"].startswith("union_tag"):
        return f"{_origin((*path, 'stage'), origins, file)}: {_stage_kind(path, problem, origins)}"
    message = problem["msg"].removeprefix("Value error, ")
    if name:
        return f"{where}: `{name}`: {message}"
    # Of a rule over several stages: its message begins with the key it is about.
    return f"{_origin(tuple(message.partition(':')[0].split('.')), origins, file)}: {message}"


def _stage_kind(path: Path_, problem: Any, origins: Origins) -> str:
    """Which kind of stage was meant, or which stage: an override of a stage that is not there makes one without a kind."""
    name, kinds = ".".join(path), _stage_kinds()
    if problem["type"] == "union_tag_invalid":
        found = problem["ctx"]["tag"]
        nearest = difflib.get_close_matches(found, kinds, n=1, cutoff=NEAREST_CUTOFF)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"valid here: {', '.join(kinds)}"
        return f"`{name}.stage`: no stage is of the kind {found!r}; {hint}"
    others = [place[1] for place in origins if len(place) == 3 and place[0] == path[0] and place[2] == "stage"]
    nearest = difflib.get_close_matches(path[-1], others, n=1, cutoff=NEAREST_CUTOFF)
    if not origins[path].line:
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"stages are: {', '.join(others)}"
        return f"there is no stage `{path[-1]}`; {hint}"
    return f"`{name}` lacks `stage:`, its kind: {', '.join(kinds)}"


def _stage_kinds() -> list[str]:
    [named] = schema()["properties"]["stages"]["patternProperties"].values()
    return list(named["discriminator"]["mapping"])


def _written_path(loc: tuple[int | str, ...], values: Any, kind: str) -> Path_:
    """Pydantic's location without the tags it adds for unions; a missing last key stays."""
    path: list[str] = []
    here = values
    for position, part in enumerate(loc):
        if position == 2 and loc[0] == "stages":
            continue  # the kind of the stage, which may also be the name of one of its keys (`shards`)
        last = position == len(loc) - 1
        if isinstance(here, dict) and (str(part) in here or (last and kind == "missing")):
            path.append(str(part))
            here = here.get(str(part))
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(str(part))
            here = here[part]
    return tuple(path)


def _origin(path: Path_, origins: Origins, file: str) -> Origin:
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return Origin(file, 1)


def _valid_keys(path: Path_, values: dict[str, Any]) -> list[str]:
    """The keys that the schema allows at `path`, found by walking the JSON Schema along the written values."""
    whole = schema()
    here: dict[str, Any] = whole
    written: Any = values
    for part in path:
        options = _options(here, whole, written)
        found = [option["properties"][part] for option in options if part in option.get("properties", {})]
        # A mapping whose keys have a pattern (stage names) is described by that pattern.
        found += [item for option in options for item in option.get("patternProperties", {}).values()]
        if not found:
            return []
        here = found[0]
        written = written[part] if isinstance(written, dict) else written[int(part)]
    return sorted({key for option in _options(here, whole, written) for key in option.get("properties", {})})


def _options(node: dict[str, Any], whole: dict[str, Any], written: Any) -> list[dict[str, Any]]:
    """The object schemas a node may stand for; a discriminated union is decided by what is written."""
    if "$ref" in node:
        return _options(whole["$defs"][node["$ref"].rsplit("/", 1)[-1]], whole, written)
    if "discriminator" in node:
        kind = written.get(node["discriminator"]["propertyName"]) if isinstance(written, dict) else None
        mapping = node["discriminator"]["mapping"]
        targets = [mapping[kind]] if kind in mapping else list(mapping.values())
        return [option for target in targets for option in _options({"$ref": target}, whole, written)]
    choices = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
    if choices:
        return [option for choice in choices for option in _options(choice, whole, written)]
    return [node]
