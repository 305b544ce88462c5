"""Pages of HTML, read as a browser would and checked as a careful reader would."""

import html.parser
import itertools
import re
import types

from cmaclip_jax.report.markup import VOID


class Page(html.parser.HTMLParser):
    """What a page holds; its tags must be balanced."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.texts, self.tables, self._open = [], [], {}, []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append(types.SimpleNamespace(tag=tag, **{"attributes": dict(attributes)}))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag == "caption":
            self._caption = ""

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.texts.append(data)
        if "caption" in self._open:
            self._caption += data
        elif "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data

    def all(self, tag):
        return [x.attributes for x in self.elements if x.tag == tag]

    def values(self, name):
        return [x.attributes[name] for x in self.elements if name in x.attributes]

    @property
    def text(self):
        return " ".join(self.texts)


def check_page(text: str) -> Page:
    """What holds for every page: it stands alone, runs nothing and can be used by everybody."""
    page = Page(text)
    assert len(text) < 4e6
    assert not re.search(r"https?:|url\(|@import|//\w+\.", text)
    assert all(source.startswith("data:image/") for source in page.values("src"))
    identities = page.values("id")
    assert len(identities) == len(set(identities))
    assert {target.removeprefix("#") for target in page.values("href")} <= set(identities)
    names = {x.tag for x in page.elements}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    assert not [name for x in page.elements for name in x.attributes if name.startswith("on")]
    assert all("alt" in picture for picture in page.all("img"))
    assert all(drawing.get("aria-label") or "aria-hidden" in drawing for drawing in page.all("svg"))
    levels = [int(x.tag[1]) for x in page.elements if re.fullmatch(r"h[1-6]", x.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(row.get("tabindex") == "0" for row in page.all("div") if row.get("class") == "wide")
    return page
