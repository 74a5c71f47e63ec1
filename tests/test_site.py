"""The report as pages: whole HTML, links that resolve, numbers that agree; in a browser too."""

import base64
import csv
import html.parser
import json
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import browser
import pytest
from conftest import command, tiny

from qgf_jax.cli import evaluate as evaluate_command
from qgf_jax.evaluation.arms import Arm
from qgf_jax.report import kl, page
from qgf_jax.runs.files import Lines
from qgf_jax.runs.run import Run
from qgf_jax.types import Spec

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&$\\frac{$\u202e\x00"
VOID = {"meta", "img", "input", "br", "link"}


class Tree(html.parser.HTMLParser):
    """What a page holds; raises for an element that is not closed in its place."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.found, self.cells = [], [], [], [], []
        self.scripts = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open
        assert len(set(self.ids)) == len(self.ids), "an id is there twice"

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.found.append(tag)
        assert not [name for name in known if name.startswith("on") or name == "style"]
        if "id" in known:
            self.ids.append(known["id"])
        self.links += [known[name] for name in ("href", "src") if name in known]
        if tag not in VOID:
            self.open.append((tag, known.get("id", "")))
        if tag in ("td", "th", "option"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        assert tag == "path"  # of SVG, which may end so

    def handle_endtag(self, tag):
        opened, _ = self.open.pop()
        assert opened == tag, (opened, tag)

    def handle_data(self, text):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1]] = self.scripts.get(self.open[-1][1], "") + text
        elif any(tag in ("td", "th", "option") for tag, _ in self.open):
            self.cells[-1] += text


def line(method, weight, episode, success, seed=0, **more):
    made = {
        "method": method, "options": {}, "weight": weight, "best_of": 1, "env": ENV, "task": 1,
        "split": ("selection", "report")[episode % 2], "seed": seed, "episode": episode, "step": 9,
        "success": success, "return": success - 10.0, "length": 20,
    }  # fmt: skip
    return made | more


ENV = "pointmaze-medium-navigate-v0"


def make_run(folder, lines, seed=0, losses=(), **changes):
    defaults = {"env": f"{ENV[:-3]}-singletask-task1-v0", "seeds": 2, "seed": seed}
    config = tiny(**(defaults | changes))
    data = {"file": "maze.npz", "sha256": "0" * 64}
    run = Run.create(folder, config, Spec(state=(4,), action=2, chunk=1).record(), data)
    for one in lines:
        Lines.append(run.episodes, one)
    for step, loss in enumerate(losses, 1):
        Lines.append(run.metrics, {"step": step, "critic/loss": loss, "policy/loss": -loss})
    return folder


def played(weights=(1.0, 3.0), episodes=8):
    arms = [("reference", 0.0), ("best_of", 0.0), *(("qgf", weight) for weight in weights)]
    for method, weight in arms:
        for seed in range(2):
            for i in range(episodes):
                wins = (i // 2 + seed + weight) % 4 >= (2 if method == "reference" else 1)
                more = {"best_of": 4} if method == "best_of" else {}
                yield line(method, weight, i, float(wins), seed, **more)
    yield line("qgf", 1.0, episodes + 1, 1.0, failed="stuck: <b>")  # of one seed alone: left out


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of three runs: one has a hostile method, KL and films, one has no episodes."""
    place = tmp_path_factory.mktemp("site")
    first = make_run(
        place / "a b#1",
        [*played(), line(HOSTILE, 0.0, 1, 1.0, 0), line("qgf", 0.0, 1, 1.0, env=f"{ENV} (jax)")],
        losses=[9.0, 2.0, 0.1],
    )
    point = {"task": 1, "split": "report", "selected": True, "of": "success"}
    sizes = {"mean": 0.5, "low": 0.25, "high": 1.0}
    points = [
        point | sizes | {"method": method, "best_of": n, "weight": weight, "kl": kl}
        for method, n, weight, kl in (
            ("qgf", 1, 1.0, 0.05), ("qgf", 1, 3.0, 40.0), ("best_of", 4, 0.0, 0.6),
            (HOSTILE, 1, 0.0, 1.0),
        )
    ]  # fmt: skip
    (first / "analysis").mkdir()
    (first / "analysis/kl.json").write_text(json.dumps({"points": points}))
    videos = first / "report/videos"
    videos.mkdir(parents=True)
    from PIL import Image

    for name in ("reference", "qgf_weight3", "qgf_weight10", "qgf_weight1"):
        Image.new("P", (8, 8)).save(videos / f"task1_{name}_episode1.gif")
    second = make_run(place / "A-B-1", [*played((0.5,))], seed=5, losses=[3.0, 2.0], critic="td")
    third = make_run(place / "later", [])
    words = [str(path) for path in (first, second, third)]
    assert command("report", *words, f"--out={place / 'site'}") == 0
    return place / "site"


def pages(site):
    return sorted(site.rglob("*.html"))


def summary(folder):
    return json.loads((folder / "summary.json").read_text())["rows"]


def test_a_site_has_a_page_for_each_run_that_has_episodes(site):
    assert {str(path.relative_to(site)) for path in pages(site)} == {
        "index.html", "a-b-1/index.html", "a-b-1/episodes.html", "A-B-1-2/index.html",
        "A-B-1-2/episodes.html",
    }  # fmt: skip
    assert {"table.md", "table.csv"} <= {path.name for path in site.iterdir()}


def test_pages_are_whole_and_nothing_of_a_name_is_markup(site):
    for path in pages(site):
        text = path.read_text()
        tree = Tree(text)
        assert text.startswith("<!doctype html>") and tree.found.count("main") == 1
        assert "onerror=alert" not in re.sub(
            r"&lt;img src=x onerror|u003cimg src=x onerror", "", text
        )
        assert "\u202e" not in text and "\x00" not in text
    shown = "".join(Tree((site / "a-b-1/index.html").read_text()).cells)
    assert "</script><img src=x onerror=alert(1)>\"'&$\\frac{$\\u202e\\u0000" in shown
    data = json.loads(Tree((site / "a-b-1/episodes.html").read_text()).scripts["data"])
    assert HOSTILE in {group[2] for group in data["groups"]}


def test_pages_need_no_network_and_run_no_other_script(site):
    for path in pages(site):
        text = path.read_text()
        assert len(text) < 300_000
        links = Tree(text).links
        assert not [one for one in links if re.match(r"(?!data:image/png;base64,)\w+:|//", one)]
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
        assert policy.startswith("default-src &#x27;none&#x27;") and "unsafe" not in policy


def test_links_lead_to_files_and_places_that_are_there(site):
    known = {path: Tree(path.read_text()) for path in pages(site)}
    counted = 0
    for path, tree in known.items():
        for one in tree.links:
            if one.startswith("data:"):
                continue
            name, _, anchor = one.partition("#")
            target = (path.parent / unquote(name)).resolve() if name else path
            assert target.is_file() and target.is_relative_to(site), one
            if anchor.startswith("row="):
                rows = summary(target.parent)
                assert all(int(place) < len(rows) for place in anchor[4:].split(","))
                counted += 1
            elif anchor:
                assert anchor in known[target].ids, one
    assert counted > 40


def cells_of(text, title):
    """The rows of a table: each the (column, text, address) of its cells."""
    body = re.search(rf'aria-label="{title}">(.*?)</table>', text, re.S)[1]
    cell = re.compile(r'<td[^>]*data-label="([^"]*)">(?:<a href="([^"]*)">)?(.*?)</td>', re.S)
    return [
        [(name, re.sub("<.*?>", "", words), to) for name, to, words in cell.findall(row)]
        for row in body.split("<tr")[2:]
    ]


@pytest.mark.parametrize("where", ["index.html", "a-b-1/index.html"])
def test_a_number_leads_to_its_row_of_the_summary(site, where):
    path = site / where
    checked = 0
    for title in ('Results[^"]*', 'Differences[^"]*'):
        for row in cells_of(path.read_text(), title):
            shown = {name.split(" [")[0]: words for name, words, _ in row}
            for name, words, to in row:
                if to and "#row=" in to:
                    file, place = to.split("#row=")
                    own = summary((path.parent / file).parent)[int(place.split(",")[0])]
                    name = name.split(" [")[0]
                    said = own["paired" if name == "difference" else name]
                    assert float(words.split()[0]) == pytest.approx(said["mean"], abs=0.5)
                    if name == "success":
                        assert (
                            words == f"{said['mean']:.2f} [{said['low']:.2f}, {said['high']:.2f}]"
                        )
                    assert float(shown["weight"]) == own["weight"] and own["split"] == "report"
                    checked += 1
    assert checked > 12


def test_a_difference_leads_to_the_episodes_of_both_arms(site):
    rows = summary(site / "a-b-1")
    (row,) = (
        one for one in cells_of((site / "a-b-1/index.html").read_text(), "Differences[^\"]*")
        if ("method", "qgf", "") in one and ("weight", "3", "") in one
    )  # fmt: skip
    (to,) = (to for name, _, to in row if name.startswith("difference"))
    ours, base = (rows[int(place)] for place in to.split("=")[1].split(","))
    assert (ours["method"], ours["weight"], base["method"]) == ("qgf", 3.0, "best_of")


def test_the_lines_of_a_row_are_what_it_is_the_mean_of(site):
    data = json.loads(Tree((site / "a-b-1/episodes.html").read_text()).scripts["data"])
    rows = summary(site / "a-b-1")
    assert len(data["rows"]) == len(rows)
    for shown, row in zip(data["rows"], rows, strict=True):
        lines = [
            one for place, one in enumerate(data["lines"])
            if one[0] in shown["groups"] and place not in shown["out"]
        ]  # fmt: skip
        assert len(lines) == row["episodes"] and len(shown["out"]) == row["left_out"]
        for column, name in ((3, "success"), (4, "return")):
            mean = sum(one[column] for one in lines) / len(lines)
            assert mean == pytest.approx(row[name]["mean"])
    assert sum(row["left_out"] for row in rows) == 1


def test_the_command_of_a_row_plays_its_episodes_and_no_others(site):
    data = json.loads(Tree((site / "A-B-1-2/episodes.html").read_text()).scripts["data"])
    for shown, row in zip(data["rows"], summary(site / "A-B-1-2"), strict=True):
        words = shlex.split(shown["command"])
        assert words[:2] == ["qgf", "evaluate"]
        flags = evaluate_command._parser().parse_args(words[2:])
        sweep = Arm.sweep(flags.methods.split(","), flags.weights, flags.best_of)
        assert sweep == [Arm.of(row)] and flags.step == row["step"] == 9
        count = 5 if row["weight"] == 1.0 else 4  # of one seed alone, and it is there
        counts = (flags.episodes, flags.selection_episodes)
        assert counts == ((count, 0) if row["split"] == "report" else (0, count))


def test_another_simulator_has_a_table_of_its_own(site):
    tree = Tree((site / "a-b-1/index.html").read_text())
    assert tree.found.count("h3") == 2
    text = (site / "a-b-1/index.html").read_text()
    assert len(cells_of(text, f"Results, {ENV}")) == 5
    (row,) = cells_of(text, rf"Results, {ENV} \(jax\)")
    (to,) = {to for _, _, to in row if to}
    data = json.loads(Tree((site / "a-b-1/episodes.html").read_text()).scripts["data"])
    assert data["rows"][int(to.split("=")[1])]["command"].endswith(" --envs=jax")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A site of two folders that seeds alone tell apart, and of one that was trained otherwise."""
    place = tmp_path_factory.mktemp("seeds")
    folders = [make_run(place / f"s{seed}", played(), seed=seed) for seed in (0, 5)]
    folders.append(make_run(place / "other", played(), critic="td"))
    assert command("report", *map(str, folders), f"--out={place / 'site'}") == 0
    return place / "site"


def test_a_row_of_several_folders_leads_to_the_episodes_of_each(seeds):
    rows = {row["trained_as"]: row for row in csv.DictReader((seeds / "table.csv").open())}
    assert {name: row["seeds"] for name, row in rows.items()} == {"qgf, iql": "4", "qgf, td": "2"}
    text = (seeds / "index.html").read_text()
    for title in ("Results", "Differences"):
        for row in cells_of(text, title):
            shown = {name.split(" [")[0]: (words, to) for name, words, to in row}
            number = shown["difference" if title == "Differences" else "success"]
            if shown["trained as"][0] == "qgf, td":
                assert shown["runs"][0] == "other" and number[1].startswith("other/episodes.html#")
                continue
            assert shown["runs"][0] == "s0, s5" and not number[1] and not shown["trained as"][1]
    for folder in ("s0", "s5"):
        places = [int(i) for i in re.findall(rf'{folder}/episodes.html#row=(\d+)">{folder}<', text)]
        own = [summary(seeds / folder)[place] for place in places]
        arms = {("reference", 0.0), ("best_of", 0.0), ("qgf", float(selected(text)))}
        assert {(row["method"], row["weight"]) for row in own} == arms
        assert {row["split"] for row in own} == {"report"}
    assert "s0, s5 are one sample" in text


def selected(text):
    """The weight of QGF in the row of both folders."""
    (weight,) = (
        {name: words for name, words, _ in row}["weight"]
        for row in cells_of(text, "Results")
        if {("method", "qgf", ""), ("trained as", "qgf, iql", "")} <= {*row}
    )
    return weight


def test_a_sweep_of_several_folders_has_a_point_for_each_weight(seeds):
    sweeps = (seeds / "index.html").read_text().split('<section id="sweeps">')[1]
    sweeps = sweeps.split("</section>")[0]
    titles = re.findall(r"<title>(.*?)</title>", sweeps)
    assert [one.split(":")[0] for one in titles] == [
        f"qgf (qgf, {critic}), weight {weight}" for critic in ("iql", "td") for weight in (1, 3)
    ]


def test_a_site_has_the_weight_that_some_tasks_select(tmp_path):
    """Weight 3 wins on task 2 and weight 1 on task 1, each a run, and 2 alone selects."""
    lines = {
        task: [
            line("qgf", weight, i, float(weight == best), task=task)
            for weight in (1.0, 3.0) for i in range(16)
        ]
        for task, best in ((1, 1.0), (2, 3.0))
    }  # fmt: skip
    folders = [
        make_run(tmp_path / f"t{task}", mine, env=f"{ENV[:-3]}-singletask-task{task}-v0")
        for task, mine in lines.items()
    ]
    site = tmp_path / "site"
    assert command("report", *map(str, folders), f"--out={site}", "--select_on=2") == 0
    for task in (1, 2):
        found = json.loads((site / f"t{task}/summary.json").read_text())
        assert found["select_on"] == [2]
        assert {row["weight"] for row in found["rows"] if row["selected"]} == {3.0}
        assert "episodes of task 2." in (site / f"t{task}/index.html").read_text()
    rows = [*csv.DictReader((site / "table.csv").open())]
    assert [(row["task"], row["weight"]) for row in rows] == [("1", "3.0"), ("2", "3.0")]
    assert "selected on other episodes of task 2," in (site / "index.html").read_text()


def test_a_page_has_the_cost_of_selection_and_the_learning_curve(tmp_path):
    """A name with dollar signs is no formula in its picture, and no markup in its table."""
    name = "$\\frac{$<b>"
    arms = (("qgf", 1.0), ("qgf", 3.0), (name, 1.0), (name, 3.0))
    lines = [
        line(method, weight, i, float(i % 3 < 2), step=step)
        for step in (4, 9) for method, weight in arms for i in range(8)
    ]  # fmt: skip
    run = make_run(tmp_path / "run", lines)
    assert command("report", str(run)) == 0
    tree = Tree((run / "report/index.html").read_text())
    assert "cost-of-selection" in tree.ids and "n = 4" in tree.cells and name in tree.cells
    for picture in ("selection_cost.png", "steps.png"):
        content = base64.b64encode((run / "report" / picture).read_bytes()).decode()
        assert f"data:image/png;base64,{content}" in tree.links
    assert len([*csv.DictReader((run / "report/steps.csv").open())]) == 4


def test_films_of_one_start_are_side_by_side_by_weight(site):
    text = (site / "a-b-1/index.html").read_text()
    assert re.findall(r'src="(videos/[^"]*)"', text) == [
        f"videos/task1_{name}_episode1.gif"
        for name in ("reference", "qgf_weight1", "qgf_weight3", "qgf_weight10")
    ]


def test_the_first_page_shows_sweeps_curves_and_what_configs_differ_in(site):
    text = (site / "index.html").read_text()
    tree = Tree(text)
    for anchor in ("sweeps", "learning-curves", "runs", "differences-of-configs"):
        assert anchor in tree.ids
    differing = {
        row[0][1]: [words for _, words, _ in row[1:]]
        for row in cells_of(text, "Differences of configs")
    }
    assert differing["seed"] == ["0", "5", "0"] and "env" not in differing
    assert "critic/loss" in text and "policy/loss" in text
    assert 'id="success-against-kl"' in (site / "a-b-1/index.html").read_text()


def test_a_report_of_one_run_has_the_same_pages(tmp_path):
    run = make_run(tmp_path / "run", played())
    assert command("report", str(run)) == 0
    before = (run / "report/index.html").read_bytes()
    assert command("report", f"--workdir={run}") == 0
    assert (run / "report/index.html").read_bytes() == before
    for name in ("index.html", "episodes.html"):
        tree = Tree((run / "report" / name).read_text())
        for one in tree.links:
            if not one.startswith(("data:", "#")):
                assert (run / "report" / one.split("#")[0]).is_file()


def test_a_file_of_kl_that_is_none_is_left_out_and_said(tmp_path):
    run = make_run(tmp_path / "run", played())
    (run / "analysis").mkdir()
    wrong = ("nothing", "{}", '{"points": [{"kl": "<b>"}]}', "[1]", '{"points": 3}', "[" * 9999)
    for content in wrong:
        (run / kl.FILE).write_text(content)
        points, why = kl.points_of(Run.open(run))
        assert points == [] and "left out" in why, content
    assert command("report", str(run)) == 0
    assert "left out." in (run / "report/index.html").read_text()


def test_a_folder_of_other_files_is_no_place_for_a_site(tmp_path, capsys):
    run = make_run(tmp_path / "run", played())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    for out in (tmp_path / "mine", run):
        assert command("report", str(run), f"--out={out}") == 2
        said = capsys.readouterr().err
        assert "no site of runs: choose another --out" in said and said.count("\n") == 1
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    for _ in range(2):  # a site is replaced
        assert command("report", str(run), f"--out={tmp_path / 'new'}") == 0
    assert not (run / "report").exists()


@pytest.mark.parametrize("words", [(), ("a", "--workdir=b")])
def test_run_folders_are_given_in_one_way(words, capsys):
    assert command("report", *words) == 2
    assert "as words or by --workdir" in capsys.readouterr().err


def luminance(color):
    digits = color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_from_what_is_behind_them():
    """WCAG 2.2: 4.5 for text, 3 for lines; https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    style = Path(page.__file__).with_name("site.css").read_text()
    dark = style.split("@media(prefers-color-scheme:dark)")[1].split("}}")[0]
    for part in (style.split("}")[0], dark):
        theme = dict(re.findall(r"--(\w+):(#\w+)", part))
        assert len(theme) == 15
        for text in ("fg", "soft", "link"):
            for behind in ("bg", "panel"):
                assert contrast(theme[text], theme[behind]) >= 4.5, (text, behind)
        for text in ("fg", "link"):
            assert contrast(theme[text], theme["mark"]) >= 4.5, text
        for i in range(8):
            assert contrast(theme[f"s{i}"], theme["bg"]) >= 3, i


@pytest.fixture(scope="module")
def chromium():
    if not browser.CHROMIUM:
        pytest.skip("no Chromium: apt-get install chromium")
    opened = browser.Browser()
    yield opened
    opened.close()


def test_no_page_scrolls_sideways_or_says_anything_to_the_console(site, chromium):
    chromium.said.clear()
    for path in pages(site):
        chromium.open(path.as_uri(), width=390, dark="episodes" in path.name)
        assert chromium.value("document.documentElement.scrollWidth <= innerWidth"), path
        seen = chromium.value("getComputedStyle(document.body).backgroundColor")
        assert seen == ("rgb(16, 21, 26)" if "episodes" in path.name else "rgb(255, 255, 255)")
    assert chromium.said == []
    chromium.open((site / "a-b-1/index.html").as_uri())
    films = chromium.value(
        "(async () => { const films = [...document.querySelectorAll('.films img')];"
        "films.forEach((film) => { film.loading = 'eager'; });"
        "await Promise.all(films.map((film) => film.decode()));"
        "return films.map((film) => film.naturalWidth); })()"
    )
    assert films == [8] * 4


COLUMN = """[...document.querySelectorAll('#results tbody tr')].map((row) =>
  [...row.cells].find((cell) => cell.dataset.label.startsWith('%s')).textContent)"""


def test_a_table_sorts_and_filters_by_keyboard(site, chromium):
    chromium.open((site / "A-B-1-2/index.html").as_uri())
    before = chromium.value(COLUMN % "success")
    for wanted in (sorted(before), sorted(before, reverse=True)):
        chromium.value("[...document.querySelectorAll('#results th button')].at(4).focus()")
        chromium.press("Enter", 13, "\r")
        assert [x[:4] for x in chromium.value(COLUMN % "success")] == [x[:4] for x in wanted]
    state = "document.querySelector('#results th[aria-sort]').ariaSort"
    assert chromium.value(state) == "descending"
    search = (
        "(() => {const input = document.querySelector('#results input'); input.value = '%s';"
        "input.dispatchEvent(new Event('input'));"
        "return document.querySelector('#results [role=status]').textContent})()"
    )
    assert chromium.value(search % "QGF weight=0.5") == "1 of 4 rows"
    assert chromium.value(COLUMN % "method") == ["qgf"]
    some = sum(float(x[:4]) > 0.6 for x in before)
    assert chromium.value(search % "success>0.6") == f"{some} of 4 rows"
    assert chromium.value(search % "nothing") == "0 of 4 rows"


def test_a_link_shows_the_episodes_of_its_row(site, chromium):
    rows = summary(site / "a-b-1")
    place = next(i for i, row in enumerate(rows) if row["left_out"])
    chromium.said.clear()
    chromium.open(f"{(site / 'a-b-1/episodes.html').as_uri()}#row={place}")
    status = "document.querySelector('[role=status]').textContent"
    assert chromium.value(status) == "9 of 9 rows"
    counts = "[...document.querySelectorAll('tbody tr')].map((row) => row.lastChild.textContent)"
    assert sorted(chromium.value(counts)) == ["no", *["yes"] * 8]
    assert chromium.value("document.querySelector('#rows').value") == str(place)
    about = chromium.value("document.querySelector('#about').textContent")
    assert "qgf evaluate '--workdir=a b#1'" in about
    chromium.value("location.hash = 'row=0,1'")
    total = len(
        json.loads(Tree((site / "a-b-1/episodes.html").read_text()).scripts["data"])["lines"]
    )
    assert (
        chromium.value(f"new Promise((done) => setTimeout(() => done({status})))")
        == "16 of 16 rows"
    )
    chromium.value("location.hash = 'row=99'")
    assert chromium.value(f"new Promise((done) => setTimeout(() => done({status})))").startswith(
        f"{total} of {total}"
    )
    cells = "[...document.querySelectorAll('tbody td')].map((cell) => cell.textContent)"
    assert HOSTILE in chromium.value(cells) and not chromium.value("document.images.length")
    assert chromium.said == []


def test_the_tab_key_goes_through_a_page_and_shows_where_it_is(site, chromium):
    chromium.open((site / "index.html").as_uri(), width=390)
    seen = []
    for _ in range(14):
        chromium.press("Tab", 9)
        seen.append(
            chromium.value(
                "(() => {const now = document.activeElement, style = getComputedStyle(now);"
                "return [now.tagName, now.matches(':focus-visible'), style.outlineStyle,"
                "parseFloat(style.outlineWidth)]})()"
            )
        )
    assert {tag for tag, *_ in seen} >= {"A", "INPUT", "BUTTON"}
    assert all(visible and outline == "solid" and width >= 2 for _, visible, outline, width in seen)


def test_many_rows_open_quickly(tmp_path, chromium):
    """500 rows, 4,000 episodes."""
    lines = [
        line("qgf", round(0.1 * w, 1), i, float((w + i) % 3 == 0), options={"rho": rho})
        for w in range(125) for rho in (0.0, 0.5) for i in range(8)
    ]  # fmt: skip
    run = make_run(tmp_path / "run", lines)
    assert command("report", str(run)) == 0
    for name in ("index.html", "episodes.html"):
        path = run / "report" / name
        assert path.stat().st_size < 1_500_000
        chromium.call(
            "Performance.enable", timeDomain="threadTicks"
        )  # of a core, however busy it is
        chromium.open(path.as_uri())
        spent = {
            one["name"]: one["value"] for one in chromium.call("Performance.getMetrics")["metrics"]
        }
        chromium.call("Performance.disable")
        assert spent["TaskDuration"] < 3, name
    assert len(summary(run / "report")) == 500
