"""The demo in small: three networks, one table, one page, results as JSON."""

from weightshare.experiments.studies import digits
from weightshare.experiments.studies.results import Result
from weightshare.training.recipe import Recipe


def test_the_demo_trains_three_networks_and_says_what_came_out(tmp_path):
    said = []
    results = digits.demo(tmp_path, seeds=[0, 1], recipe=Recipe(epochs=1), echo=said.append)
    unshared, tied, fused = results
    assert unshared.numbers["stored"] - tied.numbers["stored"] == 4 * (32 * 32 + 32)
    assert tied.numbers["stored"] == fused.numbers["stored"]
    assert unshared.numbers["macs"] == tied.numbers["macs"]
    assert all(len(result.values) == 2 for result in results)
    assert fused.seconds[0] > tied.seconds[0] * 0.5
    assert all(title in said[0] for title in digits.ROWS.values())
    assert all(title in (tmp_path / "report.html").read_text() for title in digits.ROWS.values())
    assert Result.read(tmp_path / "results" / "lin2022" / "digits" / "fused.json") == fused


def test_the_fused_network_starts_from_the_mean_of_the_trained_one(tmp_path):
    from weightshare.files.checkpoint import tensors
    from weightshare.training.data import load_data
    from weightshare.training.run import prepared, run

    recipe = Recipe(epochs=1)
    run(digits.config(tmp_path, "unshared", 0, recipe))
    model, _ = prepared(digits.config(tmp_path, "fused", 0, recipe), load_data("digits"))
    trained = tensors(tmp_path / "unshared-seed0" / "model.safetensors")
    pair = trained["blocks.2.pointwise.weight"].double() + trained["blocks.3.pointwise.weight"].double()
    assert model.blocks[3].pointwise.weight.equal((pair / 2).float())
    assert model.blocks[3].depthwise.weight.equal(trained["blocks.3.depthwise.weight"])
