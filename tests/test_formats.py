"""What stands in a file is what a model is shown: text of CSV, JSON Lines and Parquet files, and which file is read."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import train
from sfa.data import Custom, registered
from sfa.data.source import SourceError, find, identity, labelled, load, splits


def folder(path: Path, **files: str | bytes) -> str:
    """A folder of files; ``train_csv`` is called train.csv."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (path / name.replace("__", "-").replace("_", ".")).write_bytes(data)
    return str(path)


def prompts(source: str, template: str = "{a}", split: str = "train") -> list[str]:
    options = {"name": "mine", "source": source, "prompt": template, "response": "{a}"}
    return [row["prompt"] for row in Custom(**options, train_split=split, test_split="other").rows("train")]


CELLS = ["00501", "3.10", "1e10", "FALSE", "true", "NA", "None", "null", "nan", "#N/A", "-", "1_000", "2020-01-02",
         " x ", "12345678901234567890123", "0x1F", "∞", 'say "so"', "a\nb", "a\r\nb", "a,b", "{b}"]  # fmt: skip


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_cell_of_a_csv_file_is_its_text(tmp_path: Path, ends: str, mark: str) -> None:
    quoted = ['"' + cell.replace('"', '""') + '"' if set(cell) & set('",\r\n') else cell for cell in CELLS]
    content = mark + ends.join(["a,b", *(f"{cell},0" for cell in quoted), "", ""])
    assert prompts(folder(tmp_path / "d", train_csv=content)) == CELLS


def test_a_value_of_json_is_shown_with_its_own_digits(tmp_path: Path) -> None:
    values = ["72", "72.5", "72.0", "3.10", "1e10", "-0", "1E+2", "123456789012345678901234567890", "true", "false"]
    values += ['"00501"', '"2020-01-02"', '"2020-01-02T00:00:00Z"', '"a\\u2028b"', '""', '"NA"', '"é"']
    values += ['["é", 1.50, null]', '{"b": [true], "ü": {}}', '"{b}"']
    lines = "".join(f'{{"a": {value}}}\n' for value in values)
    expected = [json.loads(value) if value.startswith('"') else value for value in values]
    assert prompts(folder(tmp_path / "d", train_jsonl=lines.encode("utf-8-sig") + b"\n \n")) == expected


def test_a_value_of_parquet_is_shown_as_json_writes_it(tmp_path: Path) -> None:
    day, moment = datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4, 5)
    columns = {
        "a": pa.array(["00501"]),
        "double": pa.array([72.0]),
        "single": pa.array([0.1], pa.float32()),
        "big": pa.array([2**63 - 1]),
        "no": pa.array([False]),
        "day": pa.array([day]),
        "moment": pa.array([moment]),
        "money": pa.array([decimal.Decimal("3.10")]),
        "list": pa.array([["é", None]]),
        "object": pa.array([{"x": 1, "y": "NA"}]),
        "bytes": pa.array([b"x"]),
        "nan": pa.array([float("nan")]),
    }
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "d" / "train.parquet")
    expected = {"a": "00501", "double": "72.0", "single": "0.1", "big": "9223372036854775807", "no": "false"}
    expected |= {"day": "2020-01-02", "moment": "2020-01-02T03:04:05", "money": "3.10", "list": '["é", null]'}
    expected |= {"object": '{"x": 1, "y": "NA"}', "object.y": "NA"}
    assert {name: prompts(str(tmp_path / "d"), f"{{{name}}}")[0] for name in expected} == expected
    for name in ("bytes", "nan"):
        with pytest.raises(SourceError, match=f"the column {name} holds"):
            prompts(str(tmp_path / "d"), f"{{{name}}}")


def test_a_column_is_what_the_file_stores_whatever_its_metadata_say(tmp_path: Path) -> None:
    features = {"info": {"features": {"a": {"_type": "Image"}, "b": {"_type": "ClassLabel", "names": ["x", "y"]}}}}
    table = pa.table({"a": ["a text"], "b": [1]}).replace_schema_metadata({"huggingface": json.dumps(features)})
    (tmp_path / "d").mkdir()
    pq.write_table(table, tmp_path / "d" / "train.parquet")
    assert prompts(str(tmp_path / "d"), "{a} {b}") == ["a text 1"]


def test_a_replaced_file_gives_its_new_rows(tmp_path: Path) -> None:
    for content in ("one", "two"):
        assert prompts(folder(tmp_path / "d", train_jsonl=json.dumps({"a": content}))) == [content]
        (tmp_path / "p").mkdir(exist_ok=True)
        pq.write_table(pa.table({"a": [content]}), tmp_path / "p" / "train.parquet")
        assert prompts(str(tmp_path / "p")) == [content]


BROKEN: dict[str, tuple[dict[str, str | bytes], str]] = {
    "two columns of a name": ({"train_csv": "a,b,a\n1,2,3\n"}, "it has several columns named a"),
    "a cell too many": ({"train_csv": "a,b\n1,2\n1,2,3\n"}, "the row that ends on line 3 has 3 cells, and the first"),
    "a cell too few": ({"train_csv": 'a,b\n"x\ny",2\n1\n'}, "the row that ends on line 4 has 1 cells"),
    "a quote left open": ({"train_csv": 'a,b\n"x,2\n'}, "line 2: unexpected end of data"),
    "text after a quote": ({"train_csv": 'a,b\n"x"y,2\n'}, "line 2: ',' expected after"),
    "latin-1": ({"train_csv": "a,b\né,2\n".encode("latin-1")}, "it is not UTF-8"),
    "utf-16": ({"train_csv": "a,b\nx,2\n".encode("utf-16")}, "it is not UTF-8"),
    "latin-1 in JSON": ({"train_jsonl": '{"a": 1}\n{"a": "é"}\n'.encode("latin-1")}, "line 2: 'utf-8' codec can't"),
    "no JSON": ({"train_jsonl": '{"a": 1}\n\n{"a": }\n'}, "line 3: Expecting value"),
    "not a number": ({"train_jsonl": '{"a": NaN}'}, "line 1: NaN is not a JSON value"),
    "infinity": ({"train_jsonl": '{"a": [-Infinity]}'}, "line 1: -Infinity is not a JSON value"),
    "a key twice": ({"train_jsonl": '{"a": {"b": 1, "b": 2}}'}, "line 1: the key b occurs more than once"),
    "half a pair": ({"train_jsonl": '{"a": "\\ud83d"}'}, "line 1: 'utf-8' codec can't encode"),
    "a list": ({"train_jsonl": '[{"a": 1}]'}, "line 1 is not a JSON object"),
    "only blank lines": ({"train_jsonl": "\n\n"}, "it holds no rows"),
    "an empty cell": ({"train_csv": 'a,b\n,2\n"",2\nx,2\n'}, "the column a is empty in 2 of 3 rows"),
    "null": ({"train_jsonl": '{"a": null}\n{"a": "x"}\n{"b": 1}'}, "the column a is empty in 2 of 3 rows"),
    "two files": ({"train_csv": "a\n1\n", "train_jsonl": '{"a": 1}'}, "has train.csv and train.jsonl for the split"),
    "another case": ({"train_CSV": "a\n1\n"}, "; train.CSV is not read"),
    "two cases": ({"train_CSV": "a\n1\n", "train_csv": "a\n1\n"}, "has both train.csv and train.CSV"),
    "text": ({"train_txt": "[]", "other_csv": "a\n1\n"}, r"but ['other']; train.txt is not read"),
    "empty json": ({"train_json": "[]"}, "it holds no rows"),
    "json of two lists": ({"train_json": '{"a": [{"b": 1}], "c": [{"b": 2}]}'}, "it is not an array of JSON objects"),
    "broken json": ({"train_json": '[{"a": 1},\n{"a": ]'}, "train.json cannot be read: Expecting value: line 2"),
    "compressed": ({"train_csv_zst": "", "other_csv": "a\n1\n"}, "train.csv.zst is not read"),
    "tabs": ({"train_tsv": "a\n1\n", "other_csv": "a\n1\n"}, "train.tsv is not read"),
    "a missing shard": ({"train__00000__of__00002_csv": "a\n1\n"}, "has train-00000-of-00002.csv for the split train"),
    "a shard beside": (
        {"train__00000__of__00001_csv": "a\n1\n", "train_csv": "a\n1\n"},
        "has train-00000-of-00001.csv and train.csv for the split train",
    ),
    "an unknown column": (
        {"train_csv": "aa,b\n1,2\n"},
        "lacks the columns ['a']; it has ['aa', 'b']; did you mean aa?",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_would_have_to_be_guessed_at(case: str, tmp_path: Path) -> None:
    files, message = BROKEN[case]
    source = folder(tmp_path / "d", **files)
    with pytest.raises(SourceError) as caught:
        prompts(source)
    text = str(caught.value)
    assert (message in text or "it holds ['train.CSV']" in text) and source in text and "\n" not in text, text


def test_the_shards_of_a_split_are_read_in_their_order(tmp_path: Path) -> None:
    parts = {f"train__0000{k}__of__00003_csv": f"a\n{k}\n" for k in (2, 0, 1)}
    assert prompts(folder(tmp_path / "c", **parts)) == ["0", "1", "2"]
    (tmp_path / "p").mkdir()
    for k in (1, 0):
        pq.write_table(pa.table({"a": [2 * k, 2 * k + 1]}), tmp_path / "p" / f"train-0000{k}-of-00002.parquet", 1)
    assert prompts(str(tmp_path / "p")) == ["0", "1", "2", "3"]
    before = identity(find(str(tmp_path / "p"), None))
    pq.write_table(pa.table({"a": [7]}), tmp_path / "p" / "train-00001-of-00002.parquet")
    assert len(before["train"]) == 2 and identity(find(str(tmp_path / "p"), None)) != before


def test_a_test_split_in_a_form_that_is_not_read_is_not_drawn_instead(tmp_path: Path) -> None:
    for name in ("test_txt", "test_jsonl_zst", "Test_csv", "validation_CSV"):
        source = folder(tmp_path / name, train_csv="a\n1\n2\n", **{name: ""})
        with pytest.raises(SourceError, match=f"{name.replace('_', '.')} is not a supported file; convert it"):
            splits(find(source, None))
    assert splits(find(folder(tmp_path / "d", train_csv="a\n1\n", labels_json="[]", README_md=""), None)) == ["train"]


def test_a_dot_is_a_column_s_own_or_leads_into_an_object(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": 0, "meta": {"text": "in", "x.y": {"z": 3}}, "meta.own": "own"}]
    source = folder(tmp_path / "d", train_jsonl="".join(json.dumps(row) for row in rows))
    assert prompts(source, "{meta.text} {meta.own} {meta.x.y.z} {{a}} {meta.x.y}") == ['in own 3 {a} {"z": 3}']
    flat = folder(tmp_path / "e", train_csv="meta.text,meta,a\nown,0,1\n")
    assert prompts(flat, "{meta.text}") == ["own"]
    with pytest.raises(SourceError, match=r"lacks the columns \['meta.txt'\].*did you mean meta.text\?"):
        prompts(source, "{meta.txt}")
    with pytest.raises(SourceError, match=r"lacks the columns \['a.__class__'\]"):
        prompts(source, "{a.__class__}")


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{a} {}", "{} is not a column name"),
        ("{a!r}", "{a!r} is not a column name"),
        ("{a:d}", "{a:d} is not a column name"),
        ("{a:{b}}", "{a:{b}} is not a column name"),
        ("{a[0]}", "{a[0]} is not a column name"),
        ("{a", "expected '}' before end of string in '{a'"),
        ("a}", "Single '}' encountered in format string in 'a}'"),
        ("{{a}}", "contains no column"),
    ],
)
def test_a_template_that_names_no_column(template: str, named: str) -> None:
    with pytest.raises(ValueError, match="prompt: ") as caught:
        Custom(name="mine", source="x", prompt=template, response="{a}")
    assert named in str(caught.value)


def test_a_wrong_template_is_one_line_of_a_config_s_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("name: x\nmodel: {name: y}\ntasks: [{name: m, source: z, prompt: '{q:d}', response: '{a}'}]\n")
    assert train.main([str(config)]) == 2
    assert "prompt: {q:d} is not a column name; double a brace to write it literally" in capsys.readouterr().err


@pytest.mark.parametrize("label", [True, False, 1.0, 0.5, "1.0", "01", " 1", "²", "١", "-0", -1, 2, None, "", [0]])
def test_a_label_that_is_no_whole_number(label: Any) -> None:
    with pytest.raises(SourceError, match="a label must be a whole number from 0 to 1, not "):
        labelled(["no", "yes"], label)
    assert [labelled(["no", "yes"], right) for right in (0, 1, "0", "1")] == ["no", "yes", "no", "yes"]


def test_an_optional_column_is_there_where_it_has_a_value(tmp_path: Path) -> None:
    source = folder(tmp_path / "d", train_csv="a,document\n1,x\n2,\n")
    rows = load(find(source, None), "train", ["a"], optional=["document", "none"])
    assert rows == [{"a": "1", "document": "x"}, {"a": "2"}]


def test_columns_that_do_not_hold_what_a_task_reads(tmp_path: Path) -> None:
    source = folder(tmp_path / "d", train_csv="title,answers\nwhy?,because\n", test_csv="title,answers\nwhy?,x\n")
    with pytest.raises(
        SourceError, match=r"inqqg: row 0 of train of .*: the columns title, answers do not hold what the"
    ):
        registered("inqqg", source=source).rows("train")


def test_a_parquet_file_whose_rows_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    file = tmp_path / "d" / "train.parquet"
    pq.write_table(pa.table({"a": [f"text {i}" for i in range(1000)]}), file, compression="zstd", use_dictionary=False)
    content = bytearray(file.read_bytes())
    content[40:400] = bytes(360)
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"train.parquet cannot be read: "):
        prompts(str(tmp_path / "d"))
