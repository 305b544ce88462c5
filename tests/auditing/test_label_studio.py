"""Suspects go to Label Studio and come back as decisions."""

import base64
import io
import json
from xml.etree import ElementTree

import pytest
from PIL import Image
from support.suspects import show, suspect

from cmaclip_jax.auditing.correction import apply_file
from cmaclip_jax.auditing.decisions import Decision
from cmaclip_jax.auditing.label_studio import (
    labelling_config,
    read_annotations,
    studio_tasks,
    write_studio,
)
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

TASKS = (
    Task("colour", ("red", 'dark "red" & <blue>', "a|b")),
    Task("materials", ("wool", "silk", "cotton"), many=True),
)
SUSPECTS = [
    suspect(1, "red", "a|b"),
    suspect(1, "wool|silk", "silk|cotton", "materials"),
    suspect(4, "a|b", "red"),
    suspect(6, "red", 'dark "red" & <blue>'),
    suspect(8, "wool", "", "materials"),
]


def annotation(*, cancelled=False, **choices):
    """An answer as Label Studio exports it, as far as it is read."""
    result = [
        {
            "id": "x1",
            "type": "choices",
            "value": {"choices": list(some)},
            "origin": "manual",
            "from_name": task,
            "to_name": "text",
        }
        for task, some in choices.items()
    ]
    return {"id": 1, "result": result, "was_cancelled": cancelled, "ground_truth": False}


def decided(identity, task, label, decision, new=""):
    return Decision("t.csv", identity, task, label, decision, new)


@pytest.fixture
def studio():
    return studio_tasks(SUSPECTS, TASKS, show, "t.csv")


def test_predictions_name_choices_of_the_interface(studio):
    root = ElementTree.fromstring(labelling_config(TASKS))
    objects = {x.get("name"): x.get("value") for x in root if x.get("name") and x.get("value")}
    controls = {x.get("name"): x for x in root.iter("Choices")}
    choices = {name: [c.get("value") for c in x] for name, x in controls.items()}
    assert choices == {task.name: list(task.classes) for task in TASKS}
    assert {x.get("choice") for x in controls.values()} == {"single", "multiple"}
    assert [row["data"]["id"] for row in studio] == ["1", "4", "8", "6"]
    for row in studio:
        for value in objects.values():
            assert row["data"][value.removeprefix("$")]
        (prediction,) = row["predictions"]
        assert 0 <= prediction["score"] <= 1
        for result in prediction["result"]:
            assert result["type"] == "choices"
            assert result["to_name"] in objects
            assert controls[result["from_name"]].get("toName") == result["to_name"]
            assert set(result["value"]["choices"]) <= set(choices[result["from_name"]])
        head, data = row["data"]["image"].split(",")
        assert head == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32)
    both, _, none, _ = studio
    assert [x["value"]["choices"] for x in both["predictions"][0]["result"]] == [
        ["a|b"],
        ["silk", "cotton"],
    ]
    assert none["predictions"][0]["result"] == []
    assert both["data"]["audited"] == {"colour": "red", "materials": "wool|silk"}


def test_pictures_may_be_served_by_label_studio():
    made = studio_tasks(
        SUSPECTS, TASKS, show, "t.csv", lambda one: f"/data/local-files/?d=images/{one.id}.jpg"
    )
    assert made[0]["data"]["image"] == "/data/local-files/?d=images/1.jpg"


def test_annotations_become_decisions(studio, tmp_path):
    both, skipped, none, differing = studio
    both["annotations"] = [annotation(colour=["a|b"], materials=["silk", "wool"])]
    none["annotations"] = [annotation(materials=["cotton", "silk"])]
    skipped["annotations"] = [annotation(cancelled=True, colour=["red"])]
    differing["annotations"] = [annotation(colour=["red"]), annotation(colour=["a|b"])]
    path, xml = write_studio(tmp_path, studio, TASKS)
    assert ElementTree.parse(xml)
    assert read_annotations(path) == [
        decided("1", "colour", "red", "accept", "a|b"),
        decided("1", "materials", "wool|silk", "keep"),
        decided("4", "colour", "a|b", "unknown"),
        decided("8", "materials", "wool", "accept", "cotton|silk"),
        decided("6", "colour", "red", "unknown"),
    ]
    both["annotations"] = [annotation(colour=["red"])] * 2
    skipped["annotations"] = []
    differing["annotations"] = [annotation()]
    path.write_text(json.dumps(studio))
    assert [(one.id, one.task, one.decision) for one in read_annotations(path)] == [
        ("1", "colour", "keep"),
        ("1", "materials", "unknown"),
        ("8", "materials", "accept"),
        ("6", "colour", "unknown"),
    ]


def test_predictions_that_are_accepted_correct_the_table(studio, tmp_path):
    rows = ["id,colour,materials", "1,red,silk|wool", "4,a|b,wool", "6,red,silk", "8,red,wool"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    for row in studio:
        result = row["predictions"][0]["result"]
        row["annotations"] = [{"result": result, "was_cancelled": False}]
    path, _ = write_studio(tmp_path, studio, TASKS)
    apply_file(str(path), str(tmp_path / "clean.csv"), str(tmp_path / "t.csv"))
    assert (tmp_path / "clean.csv").read_text().splitlines()[1:] == [
        "1,a|b,silk|cotton,colour: red -> a|b; materials: silk|wool -> silk|cotton",
        "4,red,wool,colour: a|b -> red",
        '6,"dark ""red"" & <blue>",silk,"colour: red -> dark ""red"" & <blue>"',
        "8,red,wool,",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("{}", "no list of tasks"),
        ('[{"colour": "red", "id": 3}]', "task 1: it is no annotated task.*not as JSON-MIN"),
        ('[{"data": {"table": "t"}, "annotations": []}]', "task 1"),
    ],
)
def test_other_exports_are_refused(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_annotations(tmp_path / "a.json")
    assert "\n" not in str(error.value)
