"""The page of an audit: what it shows, what it may run, and what a person does with it."""

import base64
import csv
import hashlib
import re
import shutil

import pytest
from support.pages import check_page
from support.suspects import show, suspect
from support.tables import ROWS, read_csv, write

from cmaclip_jax.auditing.correction import apply_file
from cmaclip_jax.auditing.page import audit_page
from cmaclip_jax.auditing.suspect_files import read_suspects, worst_first, write_suspects
from cmaclip_jax.errors import UserError
from cmaclip_jax.report.markup import paragraph
from cmaclip_jax.report.pages import Section

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
EVIL = '</script><script>alert("x")</script>&"'
OTHER = {"red": "NA", "NA": "None", "None": "red"}
AUDITED = [
    suspect(number, row["colour"], OTHER[row["colour"]], split=row["split"])
    for number, row in enumerate(ROWS)
    if row["colour"]
][:20]


def made(suspects, twins=(), **more) -> str:
    facts = [("rows audited", "40"), ("accuracy", "0.91 with leaks, 0.89 without")]
    return audit_page("An audit", "of a test", facts, suspects, show, lambda one: twins, **more)


def checked(text: str):
    """The page, checked as every other; only its one script is its own."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', text)
    policy = policy.replace("&#x27;", "'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.replace("style-src 'unsafe-inline'", "")
    return check_page(text.replace(f"<script>{script}</script>", ""))


def test_a_page_shows_every_suspect_with_its_twins():
    extra = [Section("rare", "Rare classes", paragraph("Peach has 4 rows."))]
    text = made(AUDITED, [(show(30), "green")] * 5, sections=extra, table="products.csv")
    page = checked(text)
    cards = page.all("article")
    own = [one for one in cards if one.get("class") == "suspect"]
    assert [one["data-id"] for one in own] == [one.id for one in AUDITED]
    assert [one["data-label"] for one in own] == [one.label for one in AUDITED]
    assert [one["data-new"] for one in own] == [one.suggestion for one in AUDITED]
    assert len(cards) == len(own) * (1 + 3)
    assert page.text.count("and 2 more") == len(own)
    assert page.text.count("green") == 3 * len(own)
    for words in ("0.125", "0.750", "Peach has 4 rows.", "0.89 without", "All 20 suspects"):
        assert words in page.text
    assert [one.get("tabindex") for one in own] == ["0"] + ["-1"] * 19
    named = {name for one in own for name in one["aria-labelledby"].split()}
    assert named <= set(page.values("id"))
    (kept,) = page.values("data-audit")
    assert page.values("data-table") == ["products.csv"]
    assert f'data-audit="{kept}"' in made(AUDITED, table="products.csv")
    assert f'data-audit="{kept}"' not in made(AUDITED[1:], table="products.csv")


def test_a_page_is_limited_and_says_so():
    page = checked(made(AUDITED, most=7))
    assert "The 7 worst of 20 suspects" in page.text
    assert "audit.csv has all" in page.text
    assert len(page.all("article")) == 7
    empty = check_page(made([]))
    assert "There is no suspect." in empty.text


def test_names_cannot_become_markup():
    one = suspect(0, EVIL, EVIL + "2", task="colour", id=EVIL, split=EVIL)
    page = checked(made([one], [(show(1), EVIL)], table=EVIL))
    (card,) = [x for x in page.all("article") if x.get("class") == "suspect"]
    assert (card["data-id"], card["data-label"], card["data-split"]) == (EVIL, EVIL, EVIL)


def test_the_worst_of_every_task_take_turns_and_the_unlikely_are_last():
    suspects = [
        suspect(0, "a", "b", "big", doubt=9.0),
        suspect(1, "a", "b", "big", doubt=8.0),
        suspect(2, "a", "b", "small", doubt=0.2),
        suspect(3, "a", "b", "small", doubt=0.1),
        suspect(4, "a", "b", "big", doubt=99.0, likely=False),
    ]
    assert [one.row for one in worst_first(reversed(suspects))] == [0, 2, 1, 3, 4]


def test_suspects_are_read_as_they_were_written(tmp_path):
    twins = ("a|b", 'c"d', "", "e,f\ng")
    suspects = [
        suspect(1, "red", "a,b", doubt=1 / 3, twins=twins),
        suspect(2, "", "x|y", "tags", twins=("one",), likely=False),
        suspect(0, "blue", "red", doubt=0.1),
    ]
    write_suspects(tmp_path / "audit.csv", suspects)
    assert read_suspects(tmp_path / "audit.csv") == worst_first(suspects)
    with (tmp_path / "audit.csv").open(newline="") as file:
        assert next(csv.reader(file))[:4] == ["row", "id", "split", "task"]
    (tmp_path / "other.csv").write_text("row,id\n1,2\n")
    with pytest.raises(UserError, match="no column 'split'"):
        read_suspects(tmp_path / "other.csv")


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    driver = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[test]'")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser, path, width=1280, **more):
    page = browser.new_context(viewport={"width": width, "height": 900}, **more).new_page()
    page.troubles = []
    page.on("console", lambda message: page.troubles.append(message.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.goto(path.as_uri())
    return page


def focused(page) -> str:
    return page.evaluate("document.activeElement.dataset.id || ''")


def test_ten_rows_are_decided_by_keyboard_saved_and_applied(browser, tmp_path):
    table = tmp_path / "products.csv"
    write(table, ROWS)
    (tmp_path / "audit.html").write_text(made(AUDITED, table=str(table)))
    page = opened(browser, tmp_path / "audit.html")
    ids = [one.id for one in AUDITED]
    assert page.is_disabled("#save")
    page.keyboard.press("a")  # before any suspect is marked, nothing is decided
    page.keyboard.press("j")
    assert focused(page) == ids[0]
    for key in ("ArrowDown", "j", "ArrowUp", "k"):
        page.keyboard.press(key)
    assert focused(page) == ids[0]
    for key in "axdaaxaduaaa":  # the ninth takes back the eighth
        page.keyboard.press(key)
    assert focused(page) == ids[10]
    assert page.inner_text("#counter") == "10 of 20 decided"
    page.reload()  # the browser keeps the decisions
    assert page.inner_text("#counter") == "10 of 20 decided"
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "decisions.csv"
    download.value.save_as(tmp_path / "decisions.csv")
    assert not page.troubles
    words = {"a": "accept", "x": "keep", "d": "unknown"}
    decided = read_csv(tmp_path / "decisions.csv")
    assert [(one["id"], one["decision"]) for one in decided] == [
        (identity, words[key]) for identity, key in zip(ids, "axdaaxaaaa", strict=False)
    ]
    lines = apply_file(str(tmp_path / "decisions.csv"), str(tmp_path / "clean.csv"))
    assert "changed cells: 7, in 7 of 40 rows" in lines
    accepted = {i: one for i, one in zip(ids, AUDITED, strict=True) if i in accepted_ids(decided)}
    for before, after in zip(ROWS, read_csv(tmp_path / "clean.csv"), strict=True):
        said = after.pop("changed")
        one = accepted.get(before["id"])
        expected = before | ({"colour": one.suggestion} if one else {})
        assert after == expected
        assert said == (f"colour: {one.label} -> {one.suggestion}" if one else "")


def accepted_ids(decided) -> set[str]:
    return {one["id"] for one in decided if one["decision"] == "accept"}


def test_filters_hide_what_does_not_match_and_buttons_decide(browser, tmp_path):
    other = [suspect(row, "wool", "silk", "materials") for row in (1, 2)]
    (tmp_path / "audit.html").write_text(made([*AUDITED, *other]))
    page = opened(browser, tmp_path / "audit.html")

    def shown() -> set:
        cards = page.eval_on_selector_all(
            ".suspect:not([hidden])", "all => all.map(x => [x.dataset.task, x.dataset.label])"
        )
        return {tuple(card) for card in cards}

    page.select_option("#by-task", "materials")
    assert shown() == {("materials", "wool")}
    assert page.inner_text("#counter") == "0 of 22 decided, 2 shown"
    page.click(".suspect:not([hidden]) [data-decision=accept]")
    assert "accepted: silk" in page.inner_text(".suspect[data-decision]")
    page.select_option("#by-state", "undecided")
    assert page.inner_text("#counter") == "1 of 22 decided, 1 shown"
    page.select_option("#by-task", index=0)
    page.select_option("#by-label", "red")
    assert shown() == {("colour", "red")}
    page.select_option("#by-split", "test")
    assert len(shown()) == 1
    page.select_option("#by-task", "materials")  # has no red: its other labels are shown
    assert shown() == set()
    assert page.is_visible("#none")
    page.focus("#by-split")
    page.keyboard.press("a")  # in a filter, keys choose options
    page.click("#undo")
    assert page.inner_text("#counter").startswith("0 of 22 decided")
    assert not page.troubles


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_sticks_out_and_the_marked_suspect_is_in_sight(browser, tmp_path, width):
    long = suspect(1, "w" * 80, "a long label of many words " * 4, split="train")
    (tmp_path / "audit.html").write_text(made([*AUDITED, long], [(show(3), "blue")] * 3))
    page = opened(browser, tmp_path / "audit.html", width, color_scheme="dark")
    for _ in range(15):
        page.keyboard.press("j")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    top = page.evaluate("document.activeElement.getBoundingClientRect().top")
    bar = page.evaluate("document.querySelector('.progress').getBoundingClientRect().bottom")
    assert bar <= top < 900
    beside = (
        "all => all.filter(x => x.children[1].lastChild.getBoundingClientRect().right > "
        "x.children[2].getBoundingClientRect().left).length"
    )
    assert page.eval_on_selector_all(".labels > div", beside) == 0  # no bar lies on its number
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
