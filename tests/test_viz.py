"""The figures that notebooks share: what they show, read back from what they drew."""

import matplotlib
import numpy as np
import pytest

from minillama import viz


@pytest.fixture
def ax():
    """An empty drawing, on no screen."""
    matplotlib.use("Agg")
    with viz.plt.rc_context():
        viz.use_style()
        yield viz.plt.subplots()[1]
        viz.plt.close("all")


def lit(ax):
    """What a map shows in orange, by the labels."""
    centers = [(box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2) for box in ax.patches
               if matplotlib.colors.to_hex(box.get_facecolor()).upper() == viz.ORANGE]
    return sorted(min(ax.texts, key=lambda text: np.hypot(text.get_position()[0] - x, text.get_position()[1] - 0.7 - y)).get_text()
                  for x, y in centers)


@pytest.mark.parametrize("part", viz.PARTS)
def test_the_map_lights_up_the_part_that_is_named_and_no_other(part, ax):
    assert lit(viz.model_map(part)) == sorted(label for label, *_ in viz.PARTS[part])


def test_the_map_lights_up_several_parts_the_block_or_none(ax):
    assert lit(viz.model_map("rope", "norm")) == ["RoPE", "norm", "norm", "norm"]
    assert lit(viz.model_map("block")) == lit(viz.model_map()) == []
    block, plain = (viz.model_map(*names).patches[0].get_edgecolor() for names in (["block"], []))
    assert block != plain


def test_the_map_refuses_a_part_that_no_llama_has(ax):
    with pytest.raises(ValueError, match=r"no part \['layernorm'\]; the parts are tokens, .*, block"):
        viz.model_map("rope", "layernorm")


def test_the_map_shows_the_sizes_of_a_configuration(ax, random_llama):
    named = "\n".join(text.get_text() for text in viz.model_map().texts)
    sized = "\n".join(text.get_text() for text in viz.model_map(config=random_llama().config).texts)
    assert all(text in named for text in ("[T, dim]", "[T, vocab_size]", "× n_layers"))
    assert all(text in sized for text in ("[T, 20]", "[T, 33]", "× 2"))


def test_a_text_map_shades_each_token_by_its_value_and_breaks_no_word(ax):
    viz.text_map(ax, ["▁On", "ce", "▁upon", "<0x0A>", "T", "om"], [0, 1, 2, 2, 2, 0.5], columns=8)
    assert [(box.get_x(), box.get_y(), box.get_width()) for box in ax.patches] == [
        (0, 0, 2), (2, 0, 2), (0, 1, 4), (0, 2, 0), (0, 2, 1), (1, 2, 2)]
    white, pale, dark, _, _, paler = (sum(box.get_facecolor()[:3]) for box in ax.patches)
    assert white > paler > pale > dark
    assert "".join(text.get_text() for text in ax.texts) == "OnceuponTom"


def test_an_attention_map_has_a_row_for_each_query(ax):
    image = viz.attention_map(ax, np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5]]), ["<s>", "▁a", "<0x0A>"])
    assert image.get_array().shape == (2, 3)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["▁a", "↵"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["<s>", "▁a", "↵"]
