"""What stands in documents and answers does nothing on our pages: tried in a real browser."""

import shutil
import subprocess

import nbformat
import openpyxl
import pytest

from finlab import files, show
from finlab.evaluate import raters
from finlab.run.reports import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
HIT = "document.documentElement.setAttribute('data-hit', 1)"
ATTACKS = [
    f"<script>{HIT}</script>",
    f"<SCRIPT SRC='x'></SCRIPT ><script\n>{HIT}</script\n>",
    f'<img src="x:" onerror="{HIT}">',
    f"<svg onload={HIT.replace(' ', '')}>",
    f'"><iframe srcdoc="<script>parent.{HIT}</script>">',
    f"</td></table><body onpageshow={HIT.replace(' ', '')}>",
    f"[link](javascript:{HIT}) ![picture](x:)",
    f'<a href="javascript:{HIT}">a</a><style>*{{display:none}}</style>',
    f"</title></style></textarea><script>{HIT}</script>",
    '=HYPERLINK("http://x", "y")',
    "$\\href{javascript:alert(1)}{x}$ and $5 to $6",
]
ALL = " ".join(ATTACKS)

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")


def dom(path, profile):
    """Return a page as it stands in the browser once its scripts have run."""
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--no-first-run", f"--user-data-dir={profile}", "--virtual-time-budget=2000"),
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "</html>" in done.stdout, done.stderr[-500:]
    return done.stdout


def is_hit(path, profile):
    return 'data-hit="1"' in dom(path, profile).split(">", 2)[1]


def comparison_page(folder):
    rows = [{"question": attack, "base": ALL, attack: attack} for attack in ATTACKS]
    return files.write_text(folder / "comparison.html", show.comparison(rows).page(ALL))


def table_page(folder):
    rows = [{"text": attack, attack: 1.5, "list": [attack]} for attack in ATTACKS]
    page = "<!DOCTYPE html><html><body>" + show.table(rows, caption=ALL)._repr_html_()
    return files.write_text(folder / "table.html", page)


def report_page(folder):
    """Write the report of a run whose notebook shows attacks in every kind of output."""
    run = folder / ALL.replace("/", "")[:60]
    step = run / "base"
    step.mkdir(parents=True)
    table = show.table([{"text": attack} for attack in ATTACKS])
    outputs = [
        nbformat.v4.new_output("stream", text=ALL),
        nbformat.v4.new_output("display_data", {"text/plain": ALL}),
        nbformat.v4.new_output("display_data", {"text/html": table._repr_html_()}),
        nbformat.v4.new_output("error", ename="ValueError", evalue=ALL, traceback=[ALL]),
    ]
    cell = nbformat.v4.new_code_cell("print(text)", outputs=outputs, execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), step / "00_base_model.ipynb")
    manifest = {
        **{"step": "base", "notebook": "00_base_model", "key": "k", "inputs": {"steps": {}}},
        **{"finished": "2026-01-01T00:00:00", "seconds": 1, "peak_bytes": 1, "device": ALL},
        **{"git_commit": ALL, "python": "3.11", "versions": {"torch": ALL}, "artifact": {}},
    }
    files.write_json(step / "manifest.json", manifest)
    files.write_json(step / "metrics.json", {"loss": 1.0})
    return page.write(run)


@needs_chromium
def test_the_browser_runs_what_is_not_escaped(tmp_path):
    """Else the tests below could not fail."""
    for number, attack in enumerate(ATTACKS[:4]):
        page = tmp_path / f"{number}.html"
        page.write_text(f"<!DOCTYPE html><html><body>{attack}</body></html>", encoding="utf-8")
        if number != 1:
            assert is_hit(page, tmp_path / "profile"), attack


@needs_chromium
@pytest.mark.parametrize("write", [comparison_page, table_page, report_page])
def test_texts_do_nothing_on_a_page(tmp_path, write):
    page = write(tmp_path)
    content = dom(page, tmp_path / "profile")
    assert 'data-hit="1"' not in content.split(">", 2)[1]
    for tag in ("<script", "<iframe", "<svg onload", '<img src="x:'):
        assert tag not in content, tag


def test_texts_are_texts_in_a_sheet(tmp_path):
    """No cell is a formula or a link, also where a spreadsheet would take it for one."""
    rows = []
    for number, attack in enumerate([*ATTACKS, "+1+cmd|' /C calc'!A0", "@SUM(1)", "-2"]):
        rows.append({"id": number, "question": attack, "first": attack, "second": f"={attack}"})
    (path,) = raters.write_sheets(rows, tmp_path, raters=1, seed=1)
    sheet = openpyxl.load_workbook(path).active
    for line in sheet.iter_rows(min_row=2, max_col=4):
        for cell in line:
            assert cell.data_type == "s"
            assert cell.hyperlink is None
