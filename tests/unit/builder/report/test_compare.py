"""`traitwatch compare` gives exact cosines of vectors from anywhere, and refuses those without a meaning."""

import datetime
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from matplotlib import image

from traitwatch.errors import ArtifactError
from traitwatch.vectors import Card, PersonaVector, save_card, save_tensor, vector_sha256
from traitwatch_builder.commands.compare import compare_command
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.report.compare import check_format, compare_vectors, cosine_matrix, write_comparison

# Rows of three vectors at layer 1; layer 0 is zero, as the authors' code leaves it in places.
ROWS = {"b": [3.0, 4.0, 0.0], "a": [3.0, 0.0, 0.0], "c": [-6.0, -8.0, 0.0]}


def write(directory: Path, name: str, row: list[float], *, layers: int = 2, model: str | None = None) -> None:
    """Write a vector that is zero at layer 0 and `row` at the others, with a card where a model is named."""
    directory.mkdir(exist_ok=True)
    vector = np.array([[0.0] * len(row)] + [row] * layers, dtype=np.float32)
    save_tensor(vector, directory / f"{name}_response_avg_diff.pt")
    if model is not None:
        card = Card(
            trait=name,
            model=model,
            hidden_size=len(row),
            num_layers=layers,
            sha256=vector_sha256(vector),
            date=datetime.date(2026, 1, 1),
        )
        save_card(card, directory / f"{name}.json")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    for name, row in ROWS.items():
        write(tmp_path / "tiny", name, row)
    return tmp_path / "tiny"


def test_cosines_are_exact() -> None:
    loaded = [PersonaVector(n, np.array([[9.0, 9.0, 9.0], row], np.float32), None, Path(n)) for n, row in ROWS.items()]
    cosines = cosine_matrix(loaded, 1)
    assert cosines.dtype == np.float64
    np.testing.assert_allclose(cosines, [[1, 0.6, -1], [0.6, 1, -0.6], [-1, -0.6, 1]], rtol=0, atol=1e-15)
    assert (np.diag(cosine_matrix(loaded, 0)) == 1).all()


def test_vectors_of_the_authors_need_no_card(tmp_path: Path) -> None:
    for name in ("evil", "sycophantic"):
        torch.save(torch.eye(3, 4) + (name == "evil"), tmp_path / f"{name}_response_avg_diff.pt")
        torch.save(torch.zeros(3, 4), tmp_path / f"{name}_prompt_avg_diff.pt")
    comparison = compare_vectors([tmp_path])
    assert comparison.names == ["evil", "sycophantic"]
    # The default layer of servers is 20; these vectors have two layers.
    assert comparison.layer == 2
    assert comparison.cosines[0, 1] == pytest.approx(2 / math.sqrt(7))


def test_traits_are_chosen_and_ordered(vectors: Path) -> None:
    assert compare_vectors([vectors]).names == ["a", "b", "c"]
    assert compare_vectors([vectors], ["c", "a"]).names == ["c", "a"]


def test_one_trait_of_two_builds_is_named_by_its_directories(vectors: Path) -> None:
    write(vectors.parent / "again", "a", [0.0, 1.0, 0.0])
    comparison = compare_vectors([vectors, vectors.parent / "again"], ["a"])
    assert comparison.names == ["tiny/a", "again/a"]
    assert comparison.cosines[0, 1] == 0


def test_the_command_prints_the_whole_table(vectors: Path) -> None:
    result = CliRunner().invoke(compare_command, ["--vectors", str(vectors), "--layer", "1"])
    assert result.exit_code == 0, result.output
    assert "layer 1" in result.stdout
    cells = [line.replace("│", " ").split() for line in result.stdout.splitlines()]
    assert ["a", "1.00", "0.60", "-0.60"] in cells
    assert ["c", "-0.60", "-1.00", "1.00"] in cells


def test_several_directories_may_follow_one_option(vectors: Path) -> None:
    write(vectors.parent / "more", "d", [0.0, 0.0, 1.0])
    arguments = [str(vectors), str(vectors.parent / "more"), "--traits", "d, a"]
    result = CliRunner().invoke(compare_command, ["--vectors", *arguments])
    assert result.exit_code == 0, result.output
    assert ["d", "1.00", "0.00"] in [line.replace("│", " ").split() for line in result.stdout.splitlines()]


def test_a_file_is_written_in_the_format_of_its_name(vectors: Path, tmp_path: Path) -> None:
    comparison = compare_vectors([vectors], layer=1)
    for suffix in ("csv", "png", "svg", "html"):
        result = CliRunner().invoke(
            compare_command, ["--vectors", str(vectors), "--out", str(tmp_path / f"c.{suffix}")]
        )
        assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "c.csv", index_col="trait")
    assert list(table.columns) == list(table.index) == ["a", "b", "c"]
    assert (table.to_numpy() == comparison.cosines).all()
    pixels = image.imread(io.BytesIO((tmp_path / "c.png").read_bytes()))
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.05
    assert "\u22120.60" in (tmp_path / "c.svg").read_text()
    page = (tmp_path / "c.html").read_text()
    assert '<td class="n5">\u22120.60</td>' in page
    assert "://" not in page


def test_files_of_the_same_numbers_are_the_same(vectors: Path, tmp_path: Path) -> None:
    comparison = compare_vectors([vectors])
    for suffix in ("svg", "png"):
        for name in ("first", "second"):
            write_comparison(comparison, tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()


def test_an_unknown_format_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"\.png, \.svg, \.html, \.csv"):
        check_format(tmp_path / "c.pdf")
    result = CliRunner().invoke(compare_command, ["--vectors", "nowhere", "--out", "c.pdf"])
    assert isinstance(result.exception, PipelineError)


def test_vectors_of_different_widths_are_named(vectors: Path) -> None:
    write(vectors.parent / "wide", "d", [1.0] * 5)
    with pytest.raises(ArtifactError, match=r"2 layers of 3: .*a_resp.*; 2 layers of 5: .*wide/d_response"):
        compare_vectors([vectors, vectors.parent / "wide"])


def test_models_of_the_same_size_are_still_different_models(tmp_path: Path) -> None:
    write(tmp_path / "one", "a", [1.0, 0.0], model="llama")
    write(tmp_path / "two", "b", [1.0, 0.0], model="qwen")
    write(tmp_path / "two", "bare", [1.0, 0.0])
    with pytest.raises(ArtifactError, match=r"llama: .*one/a.*; qwen: .*two/b"):
        compare_vectors([tmp_path / "one", tmp_path / "two"])
    assert compare_vectors([tmp_path / "two"]).names == ["b", "bare"]


@pytest.mark.parametrize("layer", [-1, 3, 99])
def test_a_layer_out_of_range_is_refused(vectors: Path, layer: int) -> None:
    with pytest.raises(ArtifactError, match=rf"layer {layer} is out of range; the vectors have layers 0 to 2"):
        compare_vectors([vectors], layer=layer)


def test_a_zero_vector_has_no_direction(vectors: Path) -> None:
    with pytest.raises(ArtifactError, match="zero at layer 0"):
        compare_vectors([vectors], layer=0)


def test_one_vector_is_not_a_comparison(vectors: Path) -> None:
    with pytest.raises(ArtifactError, match=r"two vectors or more; found: .*a_response"):
        compare_vectors([vectors], ["a"])
    with pytest.raises(ArtifactError, match="no vector of x; there are: a, b, c"):
        compare_vectors([vectors], ["a", "x"])
