"""The report: what it says, that it needs no other file, and that it works in a browser with and without scripts."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from systems import make_mosaic

from lib import runs
from lib.audit import audit
from lib.bootstrap import SCORED, Interval
from lib.calibration import reliability
from lib.config import Config
from lib.console import Console, UserError
from lib.data import Dataset
from lib.decision import Decision, Gain, Member, Rule
from lib.evaluation import Evaluation, System, evaluate, join, systems, uncertainty
from lib.judge import Pooled, compare
from lib.metrics import confusion_matrix, mean_iou
from lib.neighbours import clues_for_validation
from lib.probabilities import ValidationTiles, ensure
from lib.report import elements, gallery, neighbours
from lib.report import page as report
from lib.report.verdicts import Verdicts

TILES = 24


def make_dataset(seed=0, tiles=TILES):
    """Tiles of two classes each; the last three show big rock; the first two are one image."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (tiles, 64, 128), dtype=np.uint8)
    images[1] = images[0]
    masks = np.ones((tiles, 64, 128), np.uint8)
    masks[:, :, 64:] = 2 + (np.arange(tiles) % 2)[:, None, None]
    masks[-3:, :16, :16] = 4
    masks[:, :2] = 0
    nothing = np.zeros((0, 64, 128), np.uint8)
    return Dataset("made for tests", images, masks, np.zeros(tiles, bool), nothing, None, "d" * 64)


def make_run(folder, config, validation, dataset):
    """A run folder with everything but weights."""
    train = np.setdiff1d(np.arange(len(dataset.images)), validation)
    split = runs.Split(dataset.source, dataset.digest, 0, train, validation)
    runs.write_text(folder / runs.CONFIG, config.to_json())
    runs.write_text(folder / runs.SPLIT, split.to_json())
    runs.write_json(folder / runs.METRICS, {"parameters": 1234567, "epochs": 3, "best_epoch": 2, "seconds": 63.0})
    rows = "1,1.5,21,9,0.001,0.2\n2,1.2,21,9,0.001,0.4\n3,1.1,21,9,0.0001,0.3\n"
    runs.write_text(folder / runs.HISTORY, "epoch,loss,seconds,tiles_per_second,learning_rate,mean_iou\n" + rows)
    return runs.Run.open(folder)


def make_evaluation(dataset, tiles, share):
    """Predictions that are wrong on a share of the columns that grows with the tile's number, times `share`."""
    predictions = dataset.masks[tiles].copy()
    for place, tile in enumerate(tiles):
        wrong = int(128 * share * tile / len(dataset.masks))
        predictions[place, :, :wrong] = 3
    confusions = np.array([confusion_matrix(*pair) for pair in zip(dataset.masks[tiles], predictions)])
    counts = reliability(dataset.masks[tiles], 0.6 * np.eye(5)[predictions] + 0.1)
    return Evaluation(tiles, predictions, np.full_like(predictions, 40), confusions, reliability=counts)


NOTHING = Verdicts([], [], "", [])


def judged(evaluated) -> Verdicts:
    """What the judge says of two systems, with a decision for the first."""
    pooled = [Pooled.of(system, [found]) for system, found in evaluated]
    rule = Rule(offsets=(0.0, 0.1, 0.0, 1.5), least_blob=32)
    gains = {name: Gain(argmax=0.5, tuned=0.5123, low=-0.001, high=0.02) for name in SCORED}
    members = (Member(name=evaluated[0][0].name, runs={"good/fold_0": "a"}, views=("identity",), weight=1.0),)
    decision = Decision(data="d" * 64, members=members, rule=rule, folds=5, gains=gains)
    return Verdicts(*compare(pooled, np.arange(TILES)), "single tiles", [decision])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two systems, validated on all tiles but the first, and on all but the first and the last."""
    folder, dataset = tmp_path_factory.mktemp("runs"), make_dataset()
    found = []
    for name, share, tiles in (("good", 0.5, np.arange(1, TILES)), ("<bad>", 1.0, np.arange(1, TILES - 1))):
        config = Config(experiment=name.strip("<>"), depth=3 if name == "good" else 4)
        run = make_run(folder / name.strip("<>") / "fold_0", config, tiles, dataset)
        found.append((System(name, run.folder.parent, (run,)), make_evaluation(dataset, tiles, share)))
    return found


@pytest.fixture(scope="module")
def text(evaluated):
    dataset = make_dataset()
    section = neighbours.build(*surroundings(dataset))
    return report.build(evaluated, dataset, audit(dataset), judged(evaluated), section)


def surroundings(dataset, places=None):
    """Frames of 2 x 2 tiles, a store of noise about tiles 1 to 23, and what the neighbours say, in two folds."""
    if places is None:
        places = [(tile // 4, tile % 4 // 2, tile % 2) for tile in range(TILES)]
    mosaic = make_mosaic(places)
    chances = np.random.default_rng(0).dirichlet(np.ones(5), (TILES - 1, 64, 128)).astype(np.float32)
    store = SimpleNamespace(tiles=np.arange(1, TILES), read=lambda start, stop: chances[start:stop])
    runs = [SimpleNamespace(split=SimpleNamespace(validation=np.arange(first, TILES, 2))) for first in (1, 2)]
    return mosaic, dataset, [store], clues_for_validation(mosaic, dataset, runs)


class Page(HTMLParser):
    """Every element with its attributes, and the stack of those left open."""

    VOID = ("meta", "link", "img", "input", "path", "use")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_every_element_is_closed_and_no_id_comes_twice(text):
    page = Page(text.split("<script>")[0] + "</body></html>")
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_needs_no_network(text):
    for _, attributes in Page(text).found:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert re.match("data:|#", attributes.get(name, "#")), attributes
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_every_picture_has_a_text(text):
    pictures = [attributes for tag, attributes in Page(text).found if tag == "img"]
    assert len(pictures) > 5 * TILES / 2
    assert all(len(attributes["alt"]) > 5 for attributes in pictures)


def test_names_are_escaped(text):
    assert "&lt;bad&gt;" in text and "<bad>" not in text


def verdicts_of(text: str) -> str:
    return text.split('<section id="verdicts">')[1].split("</section>")[0]


def test_intervals_are_told_and_drawn(text, evaluated):
    section, verdicts = verdicts_of(text), judged(evaluated)
    for interval in (*verdicts.standings[1].intervals, verdicts.standings[0].gap):
        number = interval.percent().split(" ")[0]
        assert number.lstrip("+-") in section
    low = f"({100 * verdicts.standings[0].intervals[0].low:.2f} to "
    assert low in section and "95% of 2,000 draws of single tiles" in section
    assert "good minus &lt;bad&gt;" in section and ">better<" in section
    # Of two systems, of their difference, and of five gains
    assert section.count("<td class=range") == section.count("<i style") == 2 + 1 + 5
    assert section.count("<u style") == 1 + 5  # where zero is


def test_a_decision_is_shown_class_by_class(text):
    section = verdicts_of(text)
    assert "Decision for good" in section and "fewer than 32 connected pixels" in section
    row = section.split("big rock</th>")[-1].split("</tr>")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)", row)
    assert cells[:3] == ["50.00", "51.23", "+1.23"] and cells[-1] == "+1.5"
    assert "(\u22120.10 to +2.00)" in row


def test_reliability_is_drawn_for_each_system(text):
    section = verdicts_of(text)
    assert section.count('role="img" aria-label="reliability of ') == 2
    assert 'aria-label="reliability of &lt;bad&gt;"' in section
    assert "Mean distance from the diagonal in points: soil " in section


def test_without_validation_tiles_there_is_nothing_to_say(evaluated):
    dataset = make_dataset()
    assert "No system has a validation tile." in report.build(evaluated, dataset, audit(dataset), NOTHING, "")


def test_drawn_intervals_share_an_axis():
    cells = elements.spans([Interval(0.5, 0.4, 0.6), Interval(0.8, 0.6, 0.8), Interval(np.nan, np.nan, np.nan)], False)
    numbers = [[float(n) for n in re.findall(r":([0-9.]+)", cell)] for cell in cells]
    assert numbers == [[0, 0.5, 0.25], [0.5, 1, 1], []]  # low, high, value
    around_zero = elements.spans([Interval(0.1, -0.1, 0.3)], True)[0]
    assert '<u style="--at:0.2500">' in around_zero


def test_only_settings_that_differ_are_shown(text):
    settings = text.split('id="settings"')[1].split("</section>")[0]
    assert ">depth<" in settings and ">width<" not in settings


def test_scores_of_other_tiles_are_said_to_compare_loosely(text, evaluated):
    dataset = make_dataset()
    assert "compare only loosely" in text
    assert "compare only loosely" not in report.build(evaluated[:1], dataset, audit(dataset), NOTHING, "")


def test_the_report_shows_the_scores_of_the_evaluation(text, evaluated):
    matrix = evaluated[0][1].confusions.sum(axis=0)
    iou = matrix[1, 1] / (matrix[1].sum() + matrix[:, 1].sum() - matrix[1, 1])
    assert f"{100 * iou:.2f}" in text.split('id="settings"')[0]
    assert f"{matrix[1, 1]:,}" in text.split('id="confusion"')[1]


def test_duplicates_are_in_the_audit(text):
    assert "2 training tiles repeat an image, in 1 group." in text


def test_scores_with_views_have_a_row_where_they_were_predicted(evaluated):
    dataset, (system, plain) = make_dataset(), evaluated[0]
    better = make_evaluation(dataset, plain.tiles, 0.25).confusions
    text = report.build([(system, dataclasses.replace(plain, with_views=better))], dataset, audit(dataset), NOTHING, "")
    row = text.split("good --tta")[1].split("</tr>")[0]
    assert f"{100 * mean_iou(better.sum(axis=0)):.2f}" in row and "Not yet predicted" not in text
    assert "Not yet predicted with test-time views: good" in report.build(
        evaluated[:1], dataset, audit(dataset), NOTHING, ""
    )


def test_neighbours_are_told_and_drawn(text):
    assert "24 of 24 tiles lie in 6 frames" in text and "of the validation pixels" in text
    assert re.search(r'<img class=wide src="data:image/png;base64,[^"]{1000,}" alt="Frames put together', text)


def test_the_picture_of_neighbours_has_the_frames_with_most_validation_tiles(tmp_path):
    neighbours.draw(tmp_path / "a.png", *surroundings(make_dataset()))
    image = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    # Four frames of two rows of tiles, five panels of 256 pixels each
    assert image.shape[1] == 10 + 5 * 266 and 4 * 128 < image.shape[0] < 4 * 128 + 4 * 40 + 120


def test_where_no_tile_has_neighbours_the_section_says_so(tmp_path):
    alone = surroundings(make_dataset(), [(-1, -1, -1)] * TILES)
    assert neighbours.build(*alone) == "<p>No two tiles were found to be neighbours.</p>"
    with pytest.raises(UserError, match="--picture: no validation tile has a neighbour"):
        neighbours.draw(tmp_path / "a.png", *alone)


def test_a_run_without_validation_has_a_report_too(tmp_path):
    dataset, tiles = make_dataset(), np.array([], np.int64)
    run = make_run(tmp_path / "seventh" / "fold_none", Config(), tiles, dataset)
    maps = np.zeros((0, 64, 128), np.uint8)
    evaluation = Evaluation(tiles, maps, maps, np.zeros((0, 5, 5), np.int64))
    text = report.build(
        [(System("seventh", run.folder.parent, (run,)), evaluation)], dataset, audit(dataset), NOTHING, ""
    )
    assert "0 of 0 validation tiles" in text and "<article" not in text and "1,234,567" in text


def test_the_gallery_keeps_to_its_room(evaluated):
    dataset = make_dataset()
    whole = gallery.build(evaluated, dataset, 10**9)
    none = gallery.build(evaluated, dataset, 0)
    room = (len(whole) - len(none)) // 2
    part = gallery.build(evaluated, dataset, room)
    assert none.count("<article") == 0 < part.count("<article") < whole.count("<article") == TILES - 1
    assert len(part.encode()) <= len(none.encode()) + room + 10


def test_a_report_of_many_systems_stays_below_the_limit(evaluated):
    dataset = make_dataset(tiles=100)
    dataset.masks[:, 8:16, :16] = 4  # every tile would be shown
    tiles = np.arange(100)
    many = [(dataclasses.replace(evaluated[0][0], name=f"s{n}"), make_evaluation(dataset, tiles, 1)) for n in range(8)]
    noise = np.random.default_rng(0).integers(0, 256, (100, 64, 128), dtype=np.uint8)
    many = [(system, dataclasses.replace(found, uncertainty=noise)) for system, found in many]
    text = report.build(many, dataset, audit(dataset), NOTHING, "")
    assert 0.9 * report.LIMIT < len(text.encode()) < report.LIMIT == 5_000_000


def test_the_gallery_starts_with_the_worst_tile_and_takes_turns(evaluated):
    dataset = make_dataset()
    evaluation = evaluated[0][1]
    places = [{int(tile): place for place, tile in enumerate(evaluation.tiles)}]
    order = gallery.ranking(places, [evaluation.scores()])
    assert gallery.telling(order, dataset)[:2] == [order[0], order[-1]]
    assert order[-1] == 1  # its predictions have the fewest wrong columns
    assert set(gallery.telling(order, dataset)) >= {TILES - 3, TILES - 2, TILES - 1}


def test_tiles_with_hardly_a_scored_pixel_have_no_score(evaluated):
    dataset = make_dataset()
    dataset.masks[3] = 0
    dataset.masks[3, 0, :100] = 1
    evaluation = make_evaluation(dataset, np.array([2, 3]), 0.5)
    assert np.isnan(evaluation.scores()[1]).all() and evaluation.worst_first().tolist() == [0]


def test_uncertainty_goes_from_none_to_all_and_leaves_an_untrained_background_out():
    certain, even = np.array([0, 1, 0, 0, 0.0]), np.full(5, 0.2)
    background = np.array([0.9, 0.1, 0, 0, 0])
    assert uncertainty(np.array([certain, even, background])).tolist() == [0, 255, 0]
    assert uncertainty(background, background=True) > 40


def test_runs_of_one_folder_are_one_system(tmp_path):
    dataset = make_dataset()
    folders = ["a/seventh/fold_0", "a/seventh/fold_1", "b/seventh/fold_0", "b/fifth/fold_0"]
    found = systems([make_run(tmp_path / folder, Config(), np.arange(2), dataset) for folder in folders])
    assert [len(system.runs) for system in found] == [2, 1, 1]
    assert [system.name for system in found] == [str(tmp_path / "a/seventh"), str(tmp_path / "b/seventh"), "fifth"]


def test_folds_of_different_configs_are_different_systems(tmp_path):
    dataset, folders = make_dataset(), [tmp_path / f"seventh/fold_{n}" for n in range(2)]
    found = systems([make_run(folder, Config(width=8 + n), np.arange(2), dataset) for n, folder in enumerate(folders)])
    assert [system.name for system in found] == list(map(str, folders))


def test_evaluation_predicts_each_fold_by_its_own_weights(tmp_path):
    dataset = make_dataset()
    config = Config(width=2, depth=1, nesting=1, dspp_rates=(), attention="none")
    found = [make_run(tmp_path / f"fold_{n}", config, np.array([2 * n, 2 * n + 1]), dataset) for n in range(2)]
    for number, run in enumerate(found):
        model = run.build_model()
        layer = model.get_layer("logits")
        layer.set_weights([0 * layer.get_weights()[0], np.eye(5, dtype=np.float32)[number + 1]])
        model.save_weights(run.folder / runs.WEIGHTS)
    evaluation = join(evaluate(found, ValidationTiles(dataset), Console(quiet=True)))
    assert evaluation.with_views is None
    assert evaluation.tiles.tolist() == [0, 1, 2, 3]
    assert [np.unique(mask).tolist() for mask in evaluation.predictions] == [[1], [1], [2], [2]]
    assert evaluation.confusions.sum() == (dataset.masks[:4] > 0).sum()
    with pytest.raises(UserError, match="other data"):
        evaluate(found, ValidationTiles(dataclasses.replace(dataset, digest="e" * 64)), Console(quiet=True))


def test_evaluation_finds_what_was_predicted_with_views_of_all_folds(tmp_path):
    dataset = make_dataset()
    config = Config(width=2, depth=1, nesting=1, dspp_rates=(), attention="none", views=("identity", "hflip"))
    found = [make_run(tmp_path / f"fold_{n}", config, np.array([2 * n, 2 * n + 1]), dataset) for n in range(2)]
    for run in found:
        run.build_model().save_weights(run.folder / runs.WEIGHTS)
    quiet = Console(quiet=True)
    stores = ensure(found[:1], ValidationTiles(dataset), None, quiet)
    assert join(evaluate(found, ValidationTiles(dataset), quiet)).with_views is None  # of one fold only
    stores += ensure(found[1:], ValidationTiles(dataset), None, quiet)
    wanted = np.concatenate([store.confusions for store in stores])
    np.testing.assert_array_equal(join(evaluate(found, ValidationTiles(dataset), quiet)).with_views, wanted)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data file, and beside it runs/seventh/fold_0 with weights that nobody trained."""
    from lib.data import load

    folder, dataset = tmp_path_factory.mktemp("trained"), make_dataset()
    np.savez(folder / "data.npz", training_set=np.stack([dataset.images, dataset.masks], axis=1))
    config = Config(width=2, depth=1, nesting=1, dspp_rates=(), attention="none")
    run = make_run(folder / "runs/seventh/fold_0", config, np.arange(8), load(str(folder / "data.npz")))
    run.build_model().save_weights(run.folder / runs.WEIGHTS)
    return folder


def run_script(folder, monkeypatch, *arguments):
    import report as script

    options = ["--data", str(folder / "data.npz"), "--runs", str(folder / "runs"), "--out", str(folder / "report.html")]
    monkeypatch.setattr("sys.argv", ["report.py", *options, *arguments])
    script.main()


def test_the_script_writes_the_page_and_pictures_beside_the_run(trained, monkeypatch, capsys):
    run_script(trained, monkeypatch, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert 0 <= printed["systems"]["seventh"]["mean_iou"] <= 1
    assert (trained / "report.html").read_text().count("<article") == 8
    names = {path.name for path in (trained / "runs/seventh/fold_0").glob("*.png")}
    assert names == {"curves.png", "confusion.png", "worst.png", "best.png"}


def test_a_run_that_can_only_be_read_is_reported_on(trained, monkeypatch, capsys):
    import report as script

    fold = trained / "runs/seventh/fold_0"
    for picture in fold.glob("*.png"):
        picture.unlink()
    monkeypatch.setattr(script, "writable", lambda folder: folder != fold)
    run_script(trained, monkeypatch)
    assert f"{fold}: cannot be written; its pictures are left out\n" in capsys.readouterr().out
    assert not list(fold.glob("*.png"))


def test_the_script_draws_four_tiles(trained, monkeypatch, capsys):
    import matplotlib.image

    run_script(trained, monkeypatch, "seventh", "--picture", str(trained / "docs/terrain.png"))
    assert "terrain.png" in capsys.readouterr().out
    height, width, _ = matplotlib.image.imread(trained / "docs/terrain.png").shape
    assert width > 5 * 256 and height > 4 * 128


def test_other_data_is_one_line(trained, monkeypatch):
    dataset = make_dataset(seed=1)
    np.savez(trained / "other.npz", training_set=np.stack([dataset.images, dataset.masks], axis=1))
    with pytest.raises(UserError, match="trained on other data .* name it with --data"):
        run_script(trained, monkeypatch, "--data", str(trained / "other.npz"))


def test_pictures_keep_their_pixels():
    import base64
    import io

    from PIL import Image

    labels = np.arange(5, dtype=np.uint8).reshape(1, 5).repeat(64, 0)
    palette = np.arange(15, dtype=np.uint8).reshape(5, 3)
    data = elements.indexed(labels, palette).removeprefix("data:image/png;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (np.array(image.convert("RGB")) == palette[labels]).all()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_controls_have_contrast(text, scheme):
    def brightness(colour):
        share = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return light @ [0.2126, 0.7152, 0.0722]

    colours = dict(re.findall(r"--(\w+): (#\w{6});", text.split(":root {")[1 if scheme == "light" else 2]))
    for ink in ("ink", "soft", "accent"):
        for paper in ("paper", "fill"):
            dark, light = sorted([brightness(colours[ink]), brightness(colours[paper])])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium; the tests that drive it are skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with chromedriver installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1280,900",
    ]:
        options.add_argument("--" + flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser, text, tmp_path):
    """The report opened from disk at 1280 pixels; the console must stay empty."""
    path = tmp_path / "report.html"
    path.write_text(text)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser")
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def shown(page):
    """Numbers of the tiles in the gallery, in its order."""
    script = "return [...document.querySelectorAll('#picks button')].map((button) => button.tile.name)"
    return [int(name.split()[1]) for name in page.execute_script(script)]


def choose(page, menu, text):
    from selenium.webdriver.support.select import Select

    Select(page.find_element("id", menu)).select_by_visible_text(text)


def press(page, key):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(key).perform()


def test_the_gallery_filters_by_class_and_by_big_rock(page):
    dataset = make_dataset()
    assert sorted(shown(page)) == list(range(1, TILES))
    choose(page, "class", "sand")
    assert sorted(shown(page)) == [tile for tile in range(1, TILES) if (dataset.masks[tile] == 3).any()]
    choose(page, "class", "any")
    page.find_element("id", "rock").click()
    assert sorted(shown(page)) == [TILES - 3, TILES - 2, TILES - 1]
    page.find_element("id", "rock").click()
    assert len(shown(page)) == TILES - 1


def test_the_gallery_orders_by_the_chosen_systems_score(page, evaluated):
    for system, evaluation in evaluated:
        choose(page, "system", system.name)
        scores = dict(zip(evaluation.tiles.tolist(), evaluation.scores()[:, 0]))
        assert set(shown(page)) == set(scores)
        choose(page, "order", "worst first")
        assert np.diff([scores[tile] for tile in shown(page)]).min() >= -1e-4
        choose(page, "order", "best first")
        assert np.diff([scores[tile] for tile in shown(page)]).max() <= 1e-4


def test_a_class_without_tiles_says_so(page):
    page.execute_script("document.querySelector('#class').add(new Option('nothing', '9'))")
    choose(page, "class", "nothing")
    assert shown(page) == [] and "No tile" in page.find_element("id", "caption").text


def test_the_slider_blends_the_mask_over_the_tile(page):
    from selenium.webdriver.common.keys import Keys

    slider = page.find_element("id", "blend")
    over = "return getComputedStyle(document.querySelectorAll('#views .stack')[1].children[1]).opacity"
    before = float(page.execute_script(over))
    caption = page.find_element("id", "caption").text
    slider.send_keys(Keys.END)
    assert float(page.execute_script(over)) == 1 > before
    slider.send_keys(Keys.HOME)
    assert float(page.execute_script(over)) == 0
    slider.send_keys(Keys.ARROW_RIGHT)
    assert float(page.execute_script(over)) == pytest.approx(0.01)
    assert page.find_element("id", "caption").text == caption  # the slider's arrows do not turn the page


def test_arrow_keys_go_through_the_tiles_and_around(page):
    from selenium.webdriver.common.keys import Keys

    order = shown(page)
    caption = page.find_element("id", "caption")
    assert caption.text.startswith(f"Tile {order[0]}:")
    press(page, Keys.ARROW_RIGHT)
    assert caption.text.startswith(f"Tile {order[1]}:") and f"(2 of {len(order)})" in caption.text
    press(page, Keys.ARROW_LEFT)
    press(page, Keys.ARROW_LEFT)
    assert caption.text.startswith(f"Tile {order[-1]}:")
    page.find_element("id", "next").click()
    assert caption.text.startswith(f"Tile {order[0]}:")
    page.find_elements("css selector", "#picks button")[3].click()
    assert caption.text.startswith(f"Tile {order[3]}:")
    current = page.find_elements("css selector", "#picks [aria-current=true]")
    assert len(current) == 1 and str(order[3]) in current[0].text


def test_without_scripts_the_page_is_a_plain_list(page):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.refresh()
    assert len([tile for tile in page.find_elements("css selector", ".tile") if tile.is_displayed()]) == TILES - 1
    assert not page.find_element("css selector", ".tools").is_displayed()
    assert not page.find_element("css selector", ".viewer").is_displayed()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_phone_does_not_scroll_sideways(page, scripts):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.refresh()
    assert page.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]["width"] == 400


def test_dark_pages_are_dark(page):
    for scheme, dark in (("light", False), ("dark", True)):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == dark
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
