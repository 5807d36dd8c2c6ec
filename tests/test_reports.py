"""The report, the gallery and the page of a comparison: what stands on them, in both languages."""

import json
import re

import nbformat
import pytest

from finlab import files, paths, show
from finlab.run import twins
from finlab.run.headline import Headline, Line, Picture, Words
from finlab.run.reports import chapters, compare, fonts, gallery, page, results

NOTEBOOK = "05_dpo"


def finished_step(run_dir, step="dpo", headline=None, upstream=None, licences=None, key="k"):
    """Write what a finished step leaves, with an executed notebook of a few cells."""
    folder = run_dir / step
    (folder / "artifact").mkdir(parents=True)
    content = nbformat.read(paths.NOTEBOOKS / f"{NOTEBOOK}.ipynb", 4)
    figure = show.bars({"甲": {"before": 1.0, "after": 2.0}}, "y", "A figure")
    data, metadata = figure._repr_mimebundle_()
    shown = nbformat.v4.new_output("display_data", data, metadata=metadata)
    content.cells = content.cells[:6]
    content.cells[-1] = nbformat.v4.new_code_cell("figure", outputs=[shown])
    nbformat.write(content, folder / f"{NOTEBOOK}.ipynb")
    manifest = {
        "step": step,
        "notebook": NOTEBOOK,
        "key": key,
        "parameters": {},
        "device": "CPU",
        "inputs": {"steps": upstream or {}, "data": {}},
        "finished": "2026-01-01T00:00:00",
        "seconds": 65.4,
        "peak_bytes": 2e9,
        "git_commit": "abc",
        "python": "3.11",
        "versions": {"torch": "2"},
        "licences": licences or {},
        "artifact": {},
    }
    metrics = {"loss": 1.0, **(headline.save(folder) if headline else {})}
    files.write_json(folder / "metrics.json", metrics)
    files.write_json(folder / "manifest.json", manifest)
    return folder


def line(number, weight):
    sentence = Words(f"sentence {number}.", f"第 {number} 句。")
    return Line(Words(f"quantity {number}", f"指标 {number}"), f"{number}.00", sentence, weight)


def headline():
    picture = Picture(Words("A title", "一个标题"), show.bars({"a": {"b": 1.0}}, "y"))
    warning = Words("Only a toy.", "只是玩具。")
    lines = [line(number, weight) for number, weight in enumerate([1, 9, 0, 3, 8, 7, 2], 1)]
    return Headline(lines, [picture], [warning])


def text_of(html):
    return re.sub(r"<[^>]+>", " ", html.split("</style>")[1])


def test_the_verdict_is_the_five_heaviest_sentences(tmp_path):
    finished_step(tmp_path, headline=headline())
    body = page.write(tmp_path).read_text(encoding="utf-8")
    verdict = re.search(r"<ol class=verdict>(.*?)</ol>", body)[1]
    said = re.findall(r"<span class=en lang=en>(.*?)</span>", verdict)
    assert said == [f"sentence {number}." for number in (2, 5, 6, 4, 7)]
    assert "第 2 句。" in verdict
    assert "只是玩具。" in body
    assert "一个标题" in body
    # What weighs nothing stands in the table of all results.
    assert "3.00" in body


def test_a_page_is_one_file_with_a_font_of_its_characters(tmp_path):
    finished_step(tmp_path, headline=headline())
    body = page.write(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in body
    assert not re.search(r'(src|href)=["\']https?://', body)
    assert "data:font/woff2;base64," in body
    assert len(body) < 600_000, "a subset, not the whole font of 8 MB"


def test_the_font_holds_what_is_asked_for():
    from fontTools.ttLib import TTFont

    rule = fonts.embedded("净利润 abc 净")
    assert fonts.chinese_of("净利润 abc 净") == "净利润"
    import base64
    import io

    data = base64.b64decode(re.search(r"base64,([^)]+)\)", rule)[1])
    glyphs = TTFont(io.BytesIO(data)).getBestCmap()
    assert {ord(letter) for letter in "净利润"} <= set(glyphs)
    assert len(glyphs) < 20
    assert fonts.embedded("abc") == ""


def test_every_picture_says_what_it_shows(tmp_path):
    finished_step(tmp_path, headline=headline())
    body = page.write(tmp_path).read_text(encoding="utf-8")
    pictures = re.findall(r"<img[^>]*>", body)
    assert len(pictures) == 2
    for picture in pictures:
        assert re.search(r'alt="[^"]*Bars of y', picture), picture[-200:]


@pytest.mark.parametrize("language", twins.LANGUAGES)
def test_the_chosen_language_is_checked(tmp_path, language):
    finished_step(tmp_path, headline=headline())
    body = page.write(tmp_path, language).read_text(encoding="utf-8")
    assert f"id=lang-{language} checked" in body
    assert body.count(" checked>") == 1
    with pytest.raises(ValueError, match="choose one of zh and en"):
        page.write(tmp_path, "fr")


def test_steps_that_do_not_fit_get_a_banner(tmp_path):
    finished_step(tmp_path, "sft", key="new")
    finished_step(tmp_path, "dpo", upstream={"sft": "old"})
    body = page.write(tmp_path).read_text(encoding="utf-8")
    assert "<div class=banner>" in body
    assert "dpo: made from an earlier sft than stands here" in body
    (tmp_path / "dpo/manifest.json").write_text(
        (tmp_path / "dpo/manifest.json").read_text().replace("old", "new")
    )
    assert "<div class=banner>" not in page.write(tmp_path).read_text(encoding="utf-8")


def test_a_licence_that_forbids_use_is_a_warning(tmp_path):
    licences = {"cw_news": "apache-2.0", "closed": "cc-by-nc-4.0"}
    finished_step(tmp_path, licences=licences)
    body = page.write(tmp_path).read_text(encoding="utf-8")
    assert "No commercial use: closed is under cc-by-nc-4.0" in body
    assert "不得商用：closed" in body
    assert "No commercial use: cw_news" not in body


def test_a_chapter_holds_both_languages_and_folds_code(tmp_path):
    folder = finished_step(tmp_path)
    chapter = chapters.chapter(folder / f"{NOTEBOOK}.ipynb", NOTEBOOK, "dpo")
    assert chapter.title == ("05 · Direct preference optimization", "05 · 直接偏好优化")
    assert ("dpo-s1", "1 Inputs", "1 输入") in chapter.headings
    assert 'id="dpo-s1"' in chapter.html
    assert '<details class="code">' in chapter.html
    assert 'class="zh"' in chapter.html
    assert "can the model learn to prefer" in chapter.html
    # A heading is set as one in both languages, not as text with signs.
    assert "## " not in re.sub(r"<details.*?</details>", "", chapter.html, flags=re.S)


def test_code_cells_that_show_nothing_fold_as_one(tmp_path):
    folder = finished_step(tmp_path)
    path = folder / f"{NOTEBOOK}.ipynb"
    quiet = [nbformat.v4.new_code_cell(f"a{number} = {number}") for number in range(4)]
    shown = nbformat.v4.new_output("stream", text="shown")
    loud = nbformat.v4.new_code_cell("print('shown')", outputs=[shown])
    nbformat.write(nbformat.v4.new_notebook(cells=[*quiet, loud]), path)
    assert chapters.chapter(path, NOTEBOOK, "dpo").html.count('<details class="code">') == 1


def test_no_link_leads_nowhere(tmp_path):
    finished_step(tmp_path, headline=headline())
    body = page.write(tmp_path).read_text(encoding="utf-8")
    targets = re.findall(r"""href=["']#([^"']+)["']""", body)
    assert {"glossary", "exercises", "dpo", "dpo-s1"} <= set(targets)
    for target in targets:
        assert re.search(rf"""id=["']?{target}["' >]""", body), target


def test_the_gallery_links_all_it_wrote(tmp_path):
    for name in ("smoke", "other"):
        finished_step(tmp_path / "runs" / name, headline=headline())
    site = tmp_path / "site"
    index = gallery.write([tmp_path / "runs/smoke", tmp_path / "runs/other"], site, "en")
    seen = [index]
    for path in seen:
        body = path.read_text(encoding="utf-8")
        for target in re.findall(r"href='([^'#]+)'", body):
            linked = (path.parent / target).resolve()
            assert linked.exists(), (path, target)
            if linked not in [each.resolve() for each in seen]:
                seen.append(linked)
    assert len(seen) == 1 + 2 * 2
    assert "sentence 2." in index.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="two runs are called 'smoke'"):
        gallery.write([tmp_path / "runs/smoke", tmp_path / "runs/smoke"], site)


def test_the_gallery_never_lies_in_a_run(tmp_path):
    folder = finished_step(tmp_path / "runs/smoke", headline=headline())
    for out in (tmp_path / "runs", tmp_path / "runs/smoke/.."):
        with pytest.raises(ValueError, match="would lie in a run"):
            gallery.write([tmp_path / "runs/smoke"], out)
    assert (folder / "manifest.json").exists()


def test_the_window_is_called_as_the_run(tmp_path):
    finished_step(tmp_path / "mine")
    body = page.write(tmp_path / "mine").read_text(encoding="utf-8")
    assert "<title>finlab: mine</title>" in body
    # It has no sentences, as runs had none before.
    assert "made by an earlier finlab" in body


def test_steps_of_one_notebook_are_told_apart(tmp_path):
    for step in ("low", "high"):
        finished_step(tmp_path, step, headline=headline())
    body = page.write(tmp_path).read_text(encoding="utf-8")
    verdict = re.search(r"<ol class=verdict>(.*?)</ol>", body)[1]
    assert "low: " in verdict and "high: " in verdict
    assert "<figcaption>high: " in body


def test_chinese_stands_only_beside_the_english_it_was_made_from(tmp_path):
    folder = finished_step(tmp_path)
    path = folder / f"{NOTEBOOK}.ipynb"
    content = nbformat.read(path, 4)
    content.cells[0].source = content.cells[0].source.replace("Direct preference", "Old preference")
    nbformat.write(content, path)
    title = chapters.chapter(path, NOTEBOOK, "dpo").title
    assert title == ("05 · Old preference optimization", "05 · Old preference optimization")


def test_a_comparison_as_a_page(tmp_path):
    for name, loss in (("one", 1.0), ("two", 2.5)):
        folder = finished_step(tmp_path / name, headline=headline())
        metrics = json.loads((folder / "metrics.json").read_text())
        files.write_json(folder / "metrics.json", {**metrics, "loss": loss})
    out = compare.write(tmp_path / "one", tmp_path / "two", tmp_path / "compare.html", "en")
    said = text_of(out.read_text(encoding="utf-8"))
    assert "nothing differs" in said, "no parameter does"
    assert re.search(r"loss\s+1\s+2.5\s+1.5", said)


def test_rows_of_the_terminal_come_from_the_headlines(tmp_path):
    finished_step(tmp_path, headline=headline())
    assert ("dpo", "quantity 2", "2.00") in results.rows(tmp_path)
    assert "quantity 2  2.00" in results.text_table(tmp_path)
