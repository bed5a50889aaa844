"""What the Hub checks in the YAML of a README, as far as its documentation tells (docs/hub: model cards, Spaces)."""

from __future__ import annotations

import re
from typing import Any

import yaml

LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m openrail++ afl-3.0 artistic-2.0 bsl-1.0 bsd
    bsd-2-clause bsd-3-clause c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 ecl-2.0
    epl-2.0 eupl-1.2 agpl-3.0 gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc mpl-2.0 ms-pl odc-by odbl ofl-1.1
    unlicense wtfpl zlib gfdl llama2 llama3 gemma unknown other
    """.split()  # noqa: SIM905
)
COLORS = frozenset(["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"])
SDKS = frozenset(("gradio", "docker", "static", "streamlit"))
SIZES = re.compile(r"n<1K|n>1T|(1|10|100)[KMB]<n<(1|10|100)[KMBT]")


def front_matter(content: str) -> dict[str, Any]:
    """The YAML block of a card; empty if there is none.

    Raises:
        ValueError: It is not YAML, or not a mapping.
    """
    match = re.match(r"^﻿?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content, re.DOTALL)
    if match is None:
        return {}
    try:
        values = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise ValueError(f"YAML Metadata Error: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise ValueError("YAML Metadata Error: the metadata is not a mapping")
    return values or {}


def check_card(content: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors, for which a commit is refused, and warnings."""
    try:
        card = front_matter(content)
    except ValueError as error:
        return [str(error)], []
    if not card:
        return (['"sdk" is required'] if kind == "space" else []), ["empty or missing yaml metadata in repo card"]
    errors = []
    licenses = card.get("license", [])
    for license in [licenses] if isinstance(licenses, str) else licenses:
        if license not in LICENSES:
            errors.append(f'"license" must be one of the known ids, not {license!r}')
    if licenses == "other" and "license_name" not in card:
        errors.append('"license_name" is required where "license" is other')
    if "tags" in card and not (isinstance(card["tags"], list) and all(isinstance(tag, str) for tag in card["tags"])):
        errors.append('"tags" must be a list of strings')
    languages = card.get("language", [])
    for language in [languages] if isinstance(languages, str) else languages:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|multilingual|code", str(language)):
            errors.append(f'"language" must be an ISO 639 code, not {language!r}')
    errors += {"model": _model_errors, "dataset": _dataset_errors, "space": _space_errors}[kind](card)
    return errors, [] if licenses else ["no license is given"]


def _model_errors(card: dict[str, Any]) -> list[str]:
    errors = [f'"{key}" must be a string' for key in ("library_name", "pipeline_tag") if not _is_text(card, key)]
    for place, model in enumerate(card.get("model-index") or []):
        where = f"model-index[{place}]"
        if not isinstance(model, dict) or "name" not in model:
            errors.append(f'"{where}.name" is required')
            continue
        for number, result in enumerate(model.get("results") or []):
            here = f"{where}.results[{number}]"
            for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
                errors += [f'"{here}.{part}.{key}" is required' for key in keys if key not in result.get(part, {})]
            if not result.get("metrics"):
                errors.append(f'"{here}.metrics" must contain at least 1 item')
            for metric in result.get("metrics", []):
                errors += [f'"{here}.metrics.{key}" is required' for key in ("type", "value") if key not in metric]
    return errors


def _dataset_errors(card: dict[str, Any]) -> list[str]:
    sizes = card.get("size_categories") or []
    sizes = [sizes] if isinstance(sizes, str) else sizes
    errors = [f'"size_categories" has {size!r}' for size in sizes if not SIZES.fullmatch(str(size))]
    for place, config in enumerate(card.get("configs") or []):
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str):
            errors.append(f'"configs[{place}].config_name" is required')
        elif isinstance(config.get("data_files"), list):
            for file in config["data_files"]:
                if isinstance(file, dict) and not {"split", "path"} <= file.keys():
                    errors.append(f'"configs[{place}].data_files" needs a split and a path each')
    return errors


def _space_errors(card: dict[str, Any]) -> list[str]:
    errors = []
    if card.get("sdk") not in SDKS:
        errors.append(f'"sdk" must be one of {", ".join(sorted(SDKS))}')
    for key in ("colorFrom", "colorTo"):
        if card.get(key, "red") not in COLORS:
            errors.append(f'"{key}" must be one of {", ".join(sorted(COLORS))}')
    if len(card.get("short_description", "")) > 60:
        errors.append('"short_description" length must be less than or equal to 60 characters long')
    return errors


def _is_text(card: dict[str, Any], key: str) -> bool:
    return isinstance(card.get(key, ""), str)
