"""What `coordexp-train --help` and docs/configuration.md say of each setting."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from coordexp.cli.settings_page import PAGE, SECTIONS, help_text, page
from coordexp.cli.train import main
from coordexp.config import meanings
from coordexp.config.meanings import settings
from coordexp.errors import UserError


@pytest.mark.parametrize(("group", "choice"), [(group, choice) for group, choice, _ in SECTIONS])
def test_every_setting_says_what_it_means(group: str, choice: str) -> None:
    silent = [setting.key for setting in settings([f"{group}={choice}"]) if not setting.meaning]
    assert not silent, f"{silent}: say it in a comment beside the field, in coordexp/config/"


def test_the_page_of_settings_is_current() -> None:
    assert PAGE.read_text() == page(), "run `python -m coordexp.cli.settings_page`"


def test_comments_stand_behind_a_field_or_above_it() -> None:
    source = '''@dataclass
class Some(Base):
    """A docstring: with a colon.  # not a comment"""

    first: int  # behind
    # above, over
    # two lines.
    second: Annotated[int, at_least(1)] = 3
    third: int
    # of nothing

    fourth: dict[str, int] = field(default_factory=dict)  # "a # inside"
'''
    expected = {"first": "behind", "second": "above, over two lines", "third": ""}
    assert meanings._comments_in(source) == {**expected, "fourth": '"a # inside"'}


def test_inherited_fields_keep_their_comments() -> None:
    @dataclass(frozen=True)
    class Base:
        kept: int  # of the base

    @dataclass(frozen=True)
    class Derived(Base):
        own: int  # of its own

    assert meanings._comments(Derived) == {"kept": "of the base", "own": "of its own"}


def test_help_shows_the_values_that_overrides_give() -> None:
    text = help_text(["data=coco", "optim.lr=0.5"])
    assert "  optim.lr=0.5\n" in text
    assert "data.annotations=null" in text
    assert "data.image_size" not in text


def test_help_does_not_need_values_that_are_missing() -> None:
    assert "  model.path=???\n" in help_text(["model=qwen3vl"])


def test_help_refuses_a_slip() -> None:
    with pytest.raises(UserError, match="optim"):
        help_text(["optim.rl=1"])


def test_train_help_is_this_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["coordexp-train", "variant=mixed", "--help"])
    main()
    assert "  variant.name=mixed\n" in capsys.readouterr().out
