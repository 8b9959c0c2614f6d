"""Config and experiments: typed overrides, JSON, hash, the ladder."""

import dataclasses
import itertools

import pytest

from lib.config import TYPES, Config
from lib.console import UserError
from lib.experiments import EXPERIMENTS, make_config


def test_overrides_take_the_type_of_their_field():
    config = Config().override(
        [
            "depth=3",
            "learning_rate=1",
            "paste_in_place=true",
            "dspp_rates=1,2,4",
            "views=hflip,shift(0,8)",
            "attention=none",
        ]
    )
    assert (config.depth, config.learning_rate, config.paste_in_place) == (3, 1.0, True)
    assert isinstance(config.learning_rate, float)
    assert config.dspp_rates == (1, 2, 4)
    assert config.views == ("hflip", "shift(0,8)")


def test_an_empty_tuple_can_be_given():
    assert Config().override(["dspp_rates="]).dspp_rates == ()


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("dept=3", "did you mean depth"),
        ("depth=three", "not of type int"),
        ("depth=3.5", "not of type int"),
        ("paste_in_place=maybe", "not of type bool"),
        ("depth", "key=value"),
        ("depth=0", "between 1 and 8"),
        ("nesting=4", "between 1 and 3"),
        ("cross_entropy=-1", "at least 0"),
        ("learning_rate=nan", "at least 0"),
        ("attention=dul", "choose one of none, channel, spatial, dual"),
    ],
)
def test_bad_overrides_say_what_is_wrong(assignment, words):
    with pytest.raises(UserError, match=words):
        Config().override([assignment])


def test_every_field_has_help():
    assert [f.name for f in dataclasses.fields(Config) if not f.metadata.get("help")] == []


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("tiny", [False, True])
def test_json_round_trip(name, tiny):
    config = make_config(name, tiny)
    assert Config.from_json(config.to_json()) == config


def test_hash_depends_on_every_field():
    base = Config()
    other = {int: lambda v: v + 1, bool: lambda v: not v, float: lambda v: v / 2 + 0.1, str: lambda v: None}
    for name, kind in TYPES.items():
        if kind in (int, bool, float):
            changed = dataclasses.replace(base, **{name: other[kind](getattr(base, name))})
            assert changed.hash() != base.hash(), name
    assert Config().hash() == base.hash()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"depth": 3}'])
def test_another_version_s_config_is_refused(text):
    with pytest.raises(UserError, match="run/config.json"):
        Config.from_json(text, "run/config.json")


def test_the_seven_rungs_come_first_and_build_on_each_other():
    names = list(EXPERIMENTS)
    assert names[:7] == ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"]
    for before, name in itertools.pairwise(names[:7]):
        assert EXPERIMENTS[name].base == before


def test_each_rung_differs_from_its_base_as_it_says():
    for name, rung in EXPERIMENTS.items():
        if rung.base:
            changes = make_config(name).differences(make_config(rung.base))
            changes.pop("experiment")
            assert changes == rung.changes, name


def test_the_ladder_is_the_report_s():
    ladder = {name: make_config(name) for name in EXPERIMENTS}
    assert [(c.nesting, c.depth) for c in list(ladder.values())[:7]] == [(1, 3), (2, 3)] + [(2, 4)] * 5
    assert ladder["first"].copy_paste == 0 and ladder["fourth"].copy_paste > 0
    assert ladder["fourth"].dspp_rates == () and ladder["fifth"].dspp_rates == (6, 12, 18)
    assert ladder["sixth"].transformer == "bottleneck" and ladder["sixth"].attention == "none"
    assert ladder["seventh"].transformer == "none" and ladder["seventh"].attention == "dual"


def test_tiny_is_smaller():
    assert make_config("seventh", tiny=True).width < make_config("seventh").width


def test_unknown_experiment_names_the_nearest():
    with pytest.raises(UserError, match="did you mean seventh"):
        make_config("sevnth")


def test_folds_by_number_all_or_none():
    config = Config(folds=3)
    assert config.chosen_folds("all") == (0, 1, 2)
    assert config.chosen_folds("2") == (2,)
    assert config.chosen_folds("none") == (None,)


@pytest.mark.parametrize("text", ["3", "-1", "x", ""])
def test_other_folds_are_refused(text):
    with pytest.raises(UserError, match="choose 0 to 2, all or none"):
        Config(folds=3).chosen_folds(text)
