"""What the README says must be so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from streamrank.events import decode
from streamrank.features import dense
from streamrank.features.schema import Schema
from streamrank.sections import Section
from streamrank.settings import Secrets, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tree_names_every_module_and_no_other() -> None:
    tree = README.partition("## What is where")[2].partition("```")[2].partition("```")[0]
    named, folder = set[str](), ""
    for line in tree.splitlines():
        name = line.split()[0] if line.split() else ""
        if name.endswith("/"):
            folder = name if not line.startswith(" ") else f"streamrank/{name}"
        elif name.endswith(".py"):
            named.add(name if "/" in name else f"{folder}{name}")
    modules = [*(ROOT / "streamrank").rglob("*.py"), *(ROOT / "flows").glob("*.py")]
    there = {str(path.relative_to(ROOT)) for path in modules if path.stem != "__init__"}
    assert named == there


def messages() -> list[str]:
    block = README.partition("## Messages")[2].partition("```json\n")[2].partition("```")[0]
    return re.split(r"\n(?=\{)", block.strip())


@pytest.mark.parametrize("message", messages())
def test_the_messages_are_read_as_they_stand(message: str) -> None:
    assert decode(message.encode()).id == json.loads(message)["id"]


def test_every_table_of_the_settings_and_every_secret_is_named() -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Section):
            assert f"`{name}`" in table, name
    for secret in Secrets.model_fields:
        assert f"STREAMRANK_{secret.upper()}" in table


def test_the_list_of_features_is_the_one_that_computes_them() -> None:
    schema = Schema(("click",), "click", item={"price": "number"}, horizons=(86400.0,))
    table = README.partition("## Features")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    known = dense.features(schema) + dense.context_features(schema)
    assert rows == [f"| `{one.name}` | {one.meaning} |" for one in known]


def test_every_picture_is_there_and_small_and_the_readme_says_what_draws_it() -> None:
    shown = set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README))
    assert shown == {str(one.relative_to(ROOT)) for one in (ROOT / "infra/pictures").iterdir()}
    for name in shown:
        assert (ROOT / name).stat().st_size < 150_000
        assert f"--picture {Path(name).name}" in README


def test_the_changelog_and_the_readme_name_no_place_of_our_machines() -> None:
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md"):
        assert not re.search(
            r"/work/|\.library|https?://(?!github\.com|keepachangelog)", path.read_text()
        )
