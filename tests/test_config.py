"""Config and experiments: typed overrides, JSON, hash, the ladder."""

import itertools
import json

import pytest

from lib.config import Config
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
        ("depth=three", "depth=three: must be a valid integer"),
        ("depth=3.5", "must be a valid integer"),
        ("paste_in_place=maybe", "must be a valid boolean"),
        ("depth", "key=value"),
        ("depth=0", "depth=0: must be at least 1"),
        ("nesting=4", "nesting=4: must be at most 3"),
        ("cross_entropy=-1", "at least 0"),
        ("learning_rate=nan", "must be a finite number"),
        ("weight_decay=inf", "must be a finite number"),
        ("learning_rate=1e9", "at most 10"),
        ("seed=4294967296", "at most 4294967295"),
        ("width=1000000000000", "at most 1024"),
        ("depth=7", "a tile of 64x128 does not divide by 128"),
        ("dspp_rates=1,0", r"dspp_rates\[1\]=0: must be at least 1"),
        ("dspp_rates=1,,2", r"dspp_rates\[1\]=: must be a valid integer"),
        ("attention=dul", "must be 'none', 'channel', 'spatial' or 'dual'"),
        ("cross_entropy=0", "all weights are 0"),
        ("experiment=", "experiment=: must match"),
        ("experiment=..", "must match"),
        ("experiment=a/b", "must match"),
        ("views=", "views: needs 1 or more"),
        ("upscale=subpixel", "upscale=subpixel: needs architecture=compact"),
        ("semi=pseudo teacher=seventh", "teacher=seventh: is the experiment itself"),
        ("semi=pseudo ignore_background=no", "needs ignore_background=True"),
        ("views=hflip,turn", r"views\[1\]=turn: no operation 'turn'"),
    ],
)
def test_bad_overrides_say_what_is_wrong(assignment, words):
    with pytest.raises(UserError, match=words):
        Config().override(assignment.split())


def test_given_weights_are_one_for_each_class():
    four = "given_weights=1,2,3,4"
    with pytest.raises(UserError, match="given_weights: 4 numbers for 5 classes"):
        Config().override(["class_weights=given", four])
    assert Config().override(["class_weights=given", four + ",5"]).given_weights == (1, 2, 3, 4, 5)


def test_typed_changes_are_checked_too():
    assert Config().replace(depth=3).depth == 3
    for changes in (dict(depth="3"), dict(dept=3), dict(depth=0)):
        with pytest.raises(UserError, match="dep"):
            Config().replace(**changes)


def test_every_field_has_help():
    assert [name for name, field in Config.model_fields.items() if not field.description] == []


def test_every_number_is_bounded():
    """So that no command line asks for what no machine could do."""
    properties = Config.model_json_schema()["properties"]
    numbers = [field.get("items", field) | {"name": name} for name, field in properties.items()]
    numbers = [field for field in numbers if field.get("type") in ("integer", "number")]
    assert len(numbers) > 20
    for field in numbers:
        assert "minimum" in field and ("maximum" in field or "exclusiveMaximum" in field), field["name"]


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("tiny", [False, True])
def test_json_round_trip(name, tiny):
    config = make_config(name, tiny)
    assert read(config.to_json()) == config


def test_hash_depends_on_every_field():
    base = Config()
    other = {int: lambda v: v + 1, bool: lambda v: not v, float: lambda v: v / 2 + 0.1}
    hashes = {base.hash()}
    for name, value in base:
        if type(value) in other:
            hashes.add(base.replace(**{name: other[type(value)](value)}).hash())
    assert len(hashes) > 20 and Config().hash() == base.hash()
    assert len(hashes) == 1 + sum(type(value) in other for _, value in base)


def test_a_missing_field_means_what_older_runs_did():
    old = json.loads(Config(seed=3).to_json())
    del old["fold_seed"], old["oversample"]
    config = read(json.dumps(old))
    assert config.fold_seed == 3 and config.oversample == Config().oversample


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Invalid JSON"),
        ("[1]", "must be an object"),
        ("null", "must be an object"),
        ('{"depht": 3}', "depht=3: is no field that this version knows"),
        ('{"depth": "3"}', "depth=3: must be a valid integer"),
        ('{"depth": 3.0}', "depth=3.0: must be a valid integer"),
        ('{"depth": true}', "depth=True: must be a valid integer"),
        ('{"depth": null}', "depth=None: must be a valid integer"),
        ('{"learning_rate": NaN}', "learning_rate=nan: must be a finite number"),
        ('{"learning_rate": 1e999}', "learning_rate=inf: must be a finite number"),
        ('{"views": "hflip"}', "views=hflip: must be a valid"),
        ('{"views": ["hflip", 1]}', r"views\[1\]=1: must be a valid string"),
        ('{"experiment": "../../x"}', "experiment=../../x: must match"),
    ],
)
def test_a_damaged_or_foreign_config_is_refused_with_file_and_field(text, words):
    with pytest.raises(UserError, match=f"^run/config.json: {words}.*; train the run again$"):
        read(text)


def read(text: str) -> Config:
    return Config.from_json(text, "run/config.json", "train the run again")


def test_an_experiments_seed_leaves_its_folds_as_they_are():
    config = make_config("seventh").override(["seed=1"])
    assert (config.seed, config.fold_seed) == (1, 0)
    assert Config(seed=1).fold_seed == 1


def test_the_seven_rungs_come_first_and_build_on_each_other():
    names = list(EXPERIMENTS)
    assert names[:7] == ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"]
    for before, name in itertools.pairwise(names[:7]):
        assert EXPERIMENTS[name].base == before


def test_each_rung_differs_from_its_base_as_it_says():
    for name, experiment in EXPERIMENTS.items():
        if experiment.base:
            changes = make_config(name).differences(make_config(experiment.base))
            changes.pop("experiment")
            assert changes == experiment.changes, name


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
    assert config.chosen_folds("2,0,2") == (0, 2)
    assert config.chosen_folds("none") == (None,)


@pytest.mark.parametrize("text", ["3", "-1", "x", "", "0,3", "0,", "0,none", "²", "٢", "00", "1" * 5000])
def test_other_folds_are_refused(text):
    with pytest.raises(UserError, match="choose 0 to 2, all or none"):
        Config(folds=3).chosen_folds(text)
