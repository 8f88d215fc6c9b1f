from __future__ import annotations

import pytest

from tcbench.declarations import CUSTOM_REWARD, CUSTOM_REWARD_FORMAT


def test_a_formatted_declaration_is_recognised() -> None:
    declared = CUSTOM_REWARD.fullmatch(CUSTOM_REWARD_FORMAT.format(name="Mine", sha256="a" * 64))
    assert declared is not None
    assert (declared["name"], declared["sha256"]) == ("Mine", "a" * 64)


@pytest.mark.parametrize("name", ["Mine", "custom:Mine", "custom:Mine@abc", f"custom:@{'a' * 64}"])
def test_names_without_a_hash_or_a_name_are_no_declarations(name: str) -> None:
    assert CUSTOM_REWARD.fullmatch(name) is None
