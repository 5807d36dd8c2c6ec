"""Tables and plots: whole, and with Chinese glyphs."""

import io
import warnings

import pytest

from finlab import show
from finlab.models import tokenization
from finlab.run.reports import page


def test_tables_show_every_row_and_escape():
    table = show.table(
        [{"名称": "澄江<重工>", "n": 12345, "share": 0.12345, "ok": True}, {"名称": "x", "n": None}]
    )
    page = table._repr_html_()
    assert "澄江&lt;重工&gt;" in page
    assert "12,345" in page
    assert "0.123" in page
    assert "yes" in page
    assert page.count("<tr>") == 3
    assert "12,345" in repr(table)
    assert len(repr(table).splitlines()) == 3


def test_plots_have_chinese_glyphs():
    figure = show.bars(
        {"澄江重工": {"前": 1.0, "后": 2.0}},
        "每字符比特",
        "金融语料的变化",
        chance=0.25,
        intervals={("澄江重工", "前"): (0.5, 1.5), ("澄江重工", "后"): (1.5, 2.5)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    figure = show.curve(
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 3.0}],
        {"loss": "训练损失"},
        "每词元",
    )
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 2.0], [2, 1.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        show.bars({"甲": {"before": 1.0, "after": 0.5}}, "y").savefig(io.BytesIO(), format="png")


def test_mask_colours_what_is_learnt(tiny):
    words = tokenization.load(tiny)
    page = show.mask(words, {"input_ids": [5, 6], "labels": [-100, 6]})._repr_html_()
    assert page.count("#f6c6c0") == 1
    assert page.count("#eef1f4") == 1


def test_report_needs_a_finished_step(tmp_path):

    with pytest.raises(ValueError, match="holds no finished step"):
        page.write(tmp_path)
