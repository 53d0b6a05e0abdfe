"""Texts in other languages than English: whole, true to the English that they have."""

import re
import tomllib
import unicodedata
from pathlib import Path

import pytest
from rich import cells

import kerascnn
from kerascnn import recipe, text, translations
from kerascnn.cli import commands
from kerascnn.lessons import page

ROOT = Path(kerascnn.__file__).parents[1]
FOLDER = Path(translations.__file__).parent
VI = tomllib.loads((FOLDER / "vi.toml").read_text("utf-8"))
ENTRIES = [(kind, name) for kind in ("recipes", "lessons") for name in VI[kind]]
RECIPES = {name: recipe.outline(name) for name in recipe.names()}
# What belongs to the lectures, whose students read Vietnamese, is translated whole.
LECTURES = re.compile(r"\blectures? [1-4]\b")
SOURCES = {name: each.course.source for name, each in RECIPES.items()}
TITLES = {name: page.text(name).title for name in page.names()}
WHOLE = [
    *(("recipes", name) for name, each in SOURCES.items() if LECTURES.search(each)),
    *(("lessons", name) for name, each in TITLES.items() if LECTURES.search(each)),
]


def english(kind, name):
    return RECIPES[name].idea if kind == "recipes" else page.docstring(name)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_a_translation_has_the_parts_of_its_english_text(kind, name):
    assert name in (RECIPES if kind == "recipes" else page.names())
    entry, original = VI[kind][name], english(kind, name)
    digest = translations.digest(original)
    assert entry["of"] == digest, (
        f"the English text of {name} has changed: translate it again in vi.toml, and "
        f'write of = "{digest}"'
    )
    said = entry["text"].strip()
    if kind == "lessons":  # whose command the pages give beside the text
        original = original.partition("\n\n    python -m")[0]
    parts, translated = original.split("\n\n"), said.split("\n\n")
    assert len(parts) == len(translated)
    code = re.compile(r"`[^`]+`|^    .*$", re.MULTILINE)
    assert code.findall(said) == code.findall(original)
    names = re.compile(r"\b(?:cifar|fashion|imagenet)_\w+")
    assert sorted(names.findall(said)) == sorted(names.findall(original))
    digits = [re.findall(r"\d+", each.replace(",", "")) for each in (said, original)]
    assert set(digits[0]) >= {each for each in digits[1] if len(each) > 2}
    assert kind == "lessons" or max(map(len, said.splitlines())) <= 92


def test_the_lectures_are_translated_whole():
    assert len(WHOLE) == 63
    assert [each for each in WHOLE if each not in ENTRIES] == []
    for name in (name for kind, name in WHOLE if kind == "recipes"):
        course = RECIPES[name].course
        assert {course.source, course.says or course.source} <= set(VI["words"]), name


def test_each_short_text_is_one_that_the_package_says():
    files = [*(ROOT / "kerascnn").rglob("*.py"), *(ROOT / "kerascnn").rglob("*.html")]
    source = " ".join(" ".join(f.read_text("utf-8").split()) for f in files)
    source = source.replace('" "', "").replace("' '", "")
    seeds = " after the last epoch ({seeds} seed"
    for word, said in VI["words"].items():
        assert word in source or word.startswith(seeds), word
        assert re.findall(r"{\w+}", word) == re.findall(r"{\w+}", said), word


def test_each_letter_is_one_character_as_wide_as_tables_count_it():
    written = (FOLDER / "vi.toml").read_text("utf-8")
    assert unicodedata.is_normalized("NFC", written)
    for line in written.splitlines():
        assert cells.cell_len(line) == len(line), line


@pytest.mark.parametrize(("words", "variable"), [(["--lang", "vi"], ""), ([], "vi")])
def test_a_card_in_vietnamese_fits_its_width(words, variable, monkeypatch, capsys):
    monkeypatch.setenv(translations.VARIABLE, variable)
    monkeypatch.setenv("COLUMNS", "60")
    assert commands.main(["show", "cifar_vgg_bn", *words]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "thủ thuật 2: batch normalization." in said
    assert "tham số huấn luyện được" in said
    assert "bài giảng 4, thủ thuật 2" in said
    assert "In lecture 3" not in out
    assert translations.UNTRANSLATED not in said
    assert max(map(cells.cell_len, out.splitlines())) <= 60
    table = [line for line in out.splitlines() if line and line[0] in "┏┃┡│├└"]
    assert len({cells.cell_len(line) for line in table}) == 1


def test_a_card_without_translation_is_english_and_says_so(capsys):
    name = next(name for name in RECIPES if ("recipes", name) not in ENTRIES)
    assert commands.main(["show", name, "--lang", "vi"]) == 0
    out = capsys.readouterr().out
    assert VI["words"][translations.UNTRANSLATED] in " ".join(out.split())
    assert " ".join(RECIPES[name].summary.split()[:3]) in out


def test_a_translation_of_a_text_that_has_changed_is_not_shown():
    vietnamese = translations.chosen("vi")
    idea = RECIPES["cifar_vgg"].idea
    assert vietnamese.recipe("cifar_vgg", idea).startswith("CIFAR-10, bài giảng 4")
    assert vietnamese.recipe("cifar_vgg", idea.replace("\n", " \n ")) is not None
    assert vietnamese.recipe("cifar_vgg", f"{idea} More.") is None
    assert translations.Translation().recipe("mine", "Any text.") == "Any text."


def test_english_is_what_a_card_is_in_unless_one_asks(monkeypatch, capsys):
    monkeypatch.setenv(translations.VARIABLE, "vi")
    for words in (["--lang", "en"], ["--json"]):
        assert commands.main(["show", "cifar_vgg_bn", *words]) == 0
        assert "lecture 4, trick 2" in capsys.readouterr().out
    assert "lecture 4, trick 2" in recipe.load("cifar_vgg_bn")._repr_markdown_()


@pytest.mark.parametrize(
    ("words", "variable", "said"),
    [
        (["show", "cifar_vgg", "--lang", "fr"], "", "--lang 'fr': there are no texts"),
        (["show", "cifar_vgg"], "xx", "KERASCNN_LANG 'xx': there are no texts"),
        (["lessons", "--lang", "VN"], "vi", "--lang 'VN': there are no texts"),
        (["lessons"], "../vi", "KERASCNN_LANG '../vi': there are no texts"),
        (["show", "cifar_vgg", "--json", "--lang", "vi"], "", "--json is English"),
    ],
)
def test_a_language_without_texts_is_refused_in_one_line(
    words, variable, said, monkeypatch, capsys
):
    monkeypatch.setenv(translations.VARIABLE, variable)
    assert commands.main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.fixture
def without_padding(tmp_path, monkeypatch):
    """Vietnamese texts that lack a lesson's."""
    texts = (FOLDER / "vi.toml").read_text("utf-8")
    begin = texts.index("[lessons.padding]")
    end = texts.index("[lessons.", begin + 1)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "vi.toml").write_text(texts[:begin] + texts[end:], "utf-8")
    monkeypatch.setattr(translations, "_FOLDER", tmp_path / "texts")


@pytest.mark.usefixtures("without_padding")
def test_a_lesson_says_its_text_in_vietnamese(tmp_path, monkeypatch, capsys):
    from kerascnn.lessons import parameters

    monkeypatch.chdir(tmp_path)
    parameters.main(["--lang", "vi", "--out", "a.png"])
    out = capsys.readouterr().out
    assert out.startswith("Tham số, bài giảng 1")
    assert "Bảng thứ nhất" in out
    assert "Lớp fully connected có" not in out  # a paragraph on no table or figure
    page.begin("padding", ["--lang", "vi"])
    out = capsys.readouterr().out
    assert out.startswith("Padding, lecture 2")
    assert VI["words"][translations.UNTRANSLATED] in out
    with pytest.raises(kerascnn.UsageError, match="no texts in that language"):
        page.begin("padding", ["--lang", "de"])


@pytest.mark.usefixtures("without_padding")
def test_the_page_of_lessons_says_which_language_each_part_is_in(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "names", lambda: ["padding", "parameters"])
    assert commands.main(["lessons", "--html", "--lang", "vi", "-o", "vi.html"]) == 0
    html = (tmp_path / "vi.html").read_text("utf-8")
    assert '<html lang="vi">' in html
    assert re.findall(r"<article id=\"(\w+)\"", html) == ["parameters", "padding"]
    assert "<h3>Tham số</h3>" in html
    assert '<h3 lang="en">Padding</h3>' in html
    assert html.count(VI["words"][translations.UNTRANSLATED]) == 1
    assert html.count('<div class="tables" lang="en">') == 2
    assert '<h2 id="of-lecture-1">Bài giảng 1</h2>' in html
    # Nothing of the page's frame stays English.
    for word in ("Lecture", "The figure of", "Run it", "Written by", "To the first"):
        assert word not in html


@pytest.mark.usefixtures("without_padding")
def test_the_list_of_lessons_is_in_vietnamese(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "70")
    assert commands.main(["lessons", "--lang", "vi"]) == 0
    out = capsys.readouterr().out
    listed = " ".join(out.split())
    assert VI["words"][translations.SOME_UNTRANSLATED] in listed
    for name in page.names():
        title = page.text(name, translations.chosen("vi")).title
        assert f"{name} {title[:20]}" in listed
    assert max(map(cells.cell_len, out.splitlines())) <= 70
    assert text.console().width == 70


README = (ROOT / "README.md").read_text("utf-8")
README_VI = (ROOT / ".docs" / "README.vi.md").read_text("utf-8")


def test_the_vietnamese_readme_has_the_english_one_s_commands_and_pictures():
    blocks = re.findall(r"^```\w+\n.*?^```$", README_VI, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert [each for each in blocks if each not in README] == []
    rows = re.findall(r"^\| (`[^`]+`) \|", README_VI, re.MULTILINE)
    assert len(rows) >= 15
    assert [each for each in rows if f"\n| {each} |" not in README] == []
    pictures = re.findall(r"!\[[^\]]+\]\(\.\./([^)]+)\)", README_VI)
    assert pictures == re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)


def test_each_command_of_the_vietnamese_readme_is_there():
    known = {command.name for command in commands.COMMANDS}
    said = re.findall(r"`(?:\.venv/bin/)?kerascnn (\w[\w-]*)((?: \w+)?)", README_VI)
    for name, more in said:
        assert name in known or f"{name}{more}" in known, name
    lessons = re.findall(r"kerascnn\.lessons\.(\w+)", README_VI)
    assert set(lessons) <= set(page.names())
    named = re.findall(r"\b(?:cifar|fashion|imagenet)_\w+", README_VI)
    assert set(named) <= set(RECIPES)


def test_the_readmes_link_to_each_other_and_no_accuracy_is_typed():
    assert "[Tiếng Việt](.docs/README.vi.md)" in README
    assert "[English](../README.md)" in README_VI
    assert "%" not in README_VI
    assert unicodedata.is_normalized("NFC", README_VI)
