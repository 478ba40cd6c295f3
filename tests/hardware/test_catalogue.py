"""The hardware catalogue: every entry loads and is sourced, known figures, own hardware, and all problems at once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware import catalogue
from hardware.kernels import gemm_s
from hardware.problems import InputError, Place
from hardware.specs import Accelerator, Fabric, Node

GIB = 2.0**30
KINDS = {"accelerators": catalogue.accelerator, "nodes": catalogue.node, "fabrics": catalogue.fabric}
ENTRIES = [(kind, name) for kind in KINDS for name in catalogue.names(kind)]  # type: ignore[arg-type]
ACCELERATORS = [catalogue.accelerator(name) for name in catalogue.names("accelerators")]
NODES = [catalogue.node(name) for name in catalogue.names("nodes")]
FABRICS = [catalogue.fabric(name) for name in catalogue.names("fabrics")]


def problems(reader: Any, *arguments: Any) -> list[str]:
    with pytest.raises(InputError) as error:
        reader(*arguments)
    return [str(problem) for problem in error.value.problems]


def bare_numbers(data: Any, key: str = "") -> list[str]:
    """Keys of numbers and quantities in a raw file that stand without a source beside them."""
    if isinstance(data, dict) and "value" in data:
        return [] if data.get("source") else [key]
    if isinstance(data, dict):
        return [bad for name, item in data.items() for bad in bare_numbers(item, f"{key}.{name}")]
    if isinstance(data, list):
        return [bad for number, item in enumerate(data) for bad in bare_numbers(item, f"{key}.{number}")]
    is_number = isinstance(data, (int, float)) and not isinstance(data, bool)
    return [key] if is_number or (isinstance(data, str) and data[:1].isdigit()) else []


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_entry_loads_and_says_what_it_is(kind: str, name: str) -> None:
    entry = KINDS[kind](name)
    assert isinstance(entry, (Accelerator, Node, Fabric))
    assert entry.name.lower() == name
    assert all(len(source) > 10 for source in entry.sources.values()), "a source names a reference that is not there"


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_number_has_a_source(kind: str, name: str) -> None:
    data = yaml.safe_load((catalogue.DATA / kind / f"{name}.yaml").read_text())
    assert data.pop("about")
    data.pop("references", None)
    assert [key for key in bare_numbers(data) if key != ".planes"] == []


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_reference_is_used(kind: str, name: str) -> None:
    text = (catalogue.DATA / kind / f"{name}.yaml").read_text()
    for tag in yaml.safe_load(text).get("references", {}):
        assert f"source: {tag}}}" in text


@pytest.mark.parametrize("gpu", ACCELERATORS, ids=lambda gpu: gpu.name)
def test_accelerator_is_plausible(gpu: Accelerator) -> None:
    peak = gpu.peak_flops_per_s
    if "bf16" in peak:
        assert peak["fp16"] == peak["bf16"]
    if "fp8" in peak:
        assert peak["fp8"] / peak["bf16"] == pytest.approx(2, rel=0.01)
    if "fp4" in peak:
        assert 2 <= peak["fp4"] / peak["fp8"] <= 3.2
    if "tf32" in peak:
        assert peak["bf16"] / peak["tf32"] == pytest.approx(2, rel=0.01)
    assert 0.3e12 < gpu.memory_bandwidth_bytes_per_s < 30e12
    assert 10 * GIB < gpu.memory_capacity_bytes < 500 * GIB
    assert 50 < gpu.sm_count < 400
    assert 0 < gpu.idle_w < gpu.tdp_w / 4
    assert 5e9 < gpu.host_bandwidth_bytes_per_s < gpu.memory_bandwidth_bytes_per_s
    # A kernel set's part prices itself unscaled.
    assert gpu.kernel_scale == 1.0 or gpu.name.lower() != gpu.kernels


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_node_is_plausible(node: Node) -> None:
    assert node.nic.bandwidth_bytes_per_s < node.scale_up.bandwidth_bytes_per_s < 1e12
    assert node.nic.bandwidth_bytes_per_s * 8 / 1e9 in (50, 100, 200, 400, 800)
    assert node.scale_up.domain_gpus % node.gpus == 0
    assert 1e-7 < node.scale_up.latency_s < node.nic.latency_s < 1e-4
    assert node.scale_up.multicast == (
        node.scale_up.kind == "nvswitch" and node.accelerator.generation in ("hopper", "blackwell")
    )


@pytest.mark.parametrize("fabric", FABRICS, ids=lambda fabric: fabric.name)
def test_fabric_is_plausible(fabric: Fabric) -> None:
    reaches = [tier.reach_gpus for tier in fabric.tiers]
    assert reaches == sorted(set(reaches))
    assert all(5e9 < tier.port_bandwidth_bytes_per_s <= 1e11 for tier in fabric.tiers)
    assert all(tier.oversubscription >= 1 for tier in fabric.tiers)
    assert (fabric.planes > 1) == (fabric.kind == "multi_plane")


@pytest.mark.parametrize(
    "name", ["ndr-rail-3tier", "hdr-rail-3tier", "xdr-rail-2tier", "clos-400g-3tier", "nvl72-800g-2tier"]
)
def test_fat_tree_reach_follows_from_the_radix(name: str) -> None:
    fabric = catalogue.fabric(name)
    radix = fabric.tiers[0].radix
    assert [tier.reach_gpus for tier in fabric.tiers[1:]] == [radix**2 // 2, radix**3 // 4][: len(fabric.tiers) - 1]


def test_published_fabrics() -> None:
    meta = catalogue.fabric("meta-24k")
    assert [tier.reach_gpus for tier in meta.tiers] == [16, 192 * 16, 8 * 192 * 16]
    assert [tier.oversubscription for tier in meta.tiers] == [1, 7, 1]
    planes = catalogue.fabric("mpft")
    assert planes.planes == 8
    assert planes.tiers[-1].reach_gpus == 8 * 64**2 // 2
    assert planes.cost_usd_per_endpoint == 4390
    assert catalogue.fabric("dragonfly").tiers[-1].reach_gpus == 16352 * 16


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("V100", "peak.fp16", 125e12),
        ("A100-40GB", "memory_bandwidth_bytes_per_s", 1.555e12),
        ("a100", "peak.bf16", 312e12),
        ("h100", "peak.fp8", 1979e12),
        ("h100", "memory_bandwidth_bytes_per_s", 3.35e12),
        ("h100", "memory_capacity_bytes", 79.11 * GIB),
        ("h100", "tdp_w", 700),
        ("h100", "sm_count", 132),
        ("H100-96GB", "memory_bandwidth_bytes_per_s", 2.4e12),
        ("H100-96GB", "tdp_w", 500),
        ("h200", "memory_bandwidth_bytes_per_s", 4.8e12),
        ("h20", "peak.bf16", 148e12),
        ("b200", "peak.bf16", 2250e12),
        ("b200", "memory_bandwidth_bytes_per_s", 7.7e12),
        ("b300", "peak.fp4", 14000e12),
        ("gb200", "peak.tf32", 1250e12),
        ("GB300", "tdp_w", 1400),
        ("MI300X", "peak.fp8", 2610e12),
        ("MI355X", "memory_bandwidth_bytes_per_s", 8e12),
    ],
)
def test_published_accelerator_figures(name: str, field: str, value: float) -> None:
    gpu = catalogue.accelerator(name)
    found = gpu.peak_flops_per_s[field[5:]] if field.startswith("peak.") else getattr(gpu, field)
    assert found == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "scale_up", "domain", "nic"),
    [
        ("v100", 150e9, 8, 50),
        ("a100", 300e9, 8, 200),
        ("h100", 450e9, 8, 400),
        ("h800", 200e9, 8, 400),
        ("b200", 900e9, 8, 400),
        ("b300", 900e9, 8, 800),
        ("gb200", 900e9, 72, 400),
        ("gb300", 900e9, 72, 800),
        ("mi300x", 7 * 64e9, 8, 400),
        ("mi355x", 7 * 76.5e9, 8, 400),
        ("jean-zay-a100", 300e9, 8, 50),
    ],
)
def test_published_node_figures(name: str, scale_up: float, domain: int, nic: float) -> None:
    node = catalogue.node(name)
    assert node.scale_up.bandwidth_bytes_per_s == scale_up
    assert node.scale_up.domain_gpus == domain
    assert node.nic.bandwidth_bytes_per_s == nic * 1e9 / 8


def test_kernels_of_siblings_are_scaled_by_published_ratios() -> None:
    scales = {gpu.name: gpu.kernel_scale for gpu in ACCELERATORS}
    assert scales["V100-SXM2-32GB"] == pytest.approx(125 / 312, rel=2e-3)
    assert scales["H20-SXM-96GB"] == pytest.approx(148 / 989, rel=2e-3)
    # Best bf16 matmul of the h100 set: 831.6 TFLOP/s; of the parts themselves: 668.4, 784.9 and 1565.
    best = {name: scales[name] * 831.6 for name in ("MI300X", "MI325X", "MI355X")}
    assert best == pytest.approx({"MI300X": 668.4, "MI325X": 784.9, "MI355X": 1565}, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_aliases_lead_to_entries_and_hide_none(kind: str) -> None:
    known = set(catalogue.names(kind))  # type: ignore[arg-type]
    for alias, name in catalogue.aliases(kind).items():  # type: ignore[arg-type]
        assert name in known
        assert alias not in known
        assert KINDS[kind](alias) == KINDS[kind](name)


def test_names_are_forgiving() -> None:
    assert catalogue.accelerator("H100 SXM_80GB") is not None
    assert catalogue.node("H100").name == "hgx-h100"


def test_unknown_name_lists_close_matches() -> None:
    (text,) = problems(catalogue.accelerator, "h10", Place("job.yaml", "cluster.gpu", {"cluster": 3, "cluster.gpu": 4}))
    assert text.startswith("job.yaml:4: cluster.gpu: accelerator 'h10' is not known; did you mean h100")
    (text,) = problems(catalogue.fabric, "zzz")
    assert "choose from" in text
    assert "ndr-rail-3tier" in text
    (text,) = problems(catalogue.node, "../../etc/passwd")
    assert "not known" in text


def test_inline_changes_one_value_and_keeps_the_rest() -> None:
    base = catalogue.node("hgx-h100")
    node = catalogue.node({"base": "hgx-h100", "nic": {"bandwidth": "25 GB/s"}, "accelerator": {"tdp": "500 W"}})
    assert node.nic.bandwidth_bytes_per_s == 25e9
    assert node.nic.latency_s == base.nic.latency_s
    assert node.accelerator.tdp_w == 500
    assert node.accelerator.memory_capacity_bytes == base.accelerator.memory_capacity_bytes
    assert node.name == "hgx-h100 (changed)"
    assert "nic.bandwidth" not in node.sources
    assert node.sources["nic.latency"] == base.sources["nic.latency"]
    assert catalogue.node("hgx-h100") == base


def test_own_file_based_on_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").write_text(
        "base: h100-sxm-80gb\nname: MyH100\nreferences: {lab: measured in our laboratory}\n"
        "tdp: {value: 650 W, source: lab}\nmemory_capacity: 1.0e+11 B\n"
    )
    (tmp_path / "node.yaml").write_text("base: h100\nname: my-node\naccelerator: gpu.yaml\n")
    node = catalogue.node(str(tmp_path / "node.yaml"))
    assert node.accelerator.name == "MyH100"
    assert node.accelerator.tdp_w == 650
    assert node.accelerator.memory_capacity_bytes == 1e11
    assert node.accelerator.sources["tdp"] == "measured in our laboratory"
    here = catalogue.node("node.yaml", Place(str(tmp_path / "scenario.yaml")))
    assert here == node


def test_own_file_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gpu.yaml"
    path.write_text(
        "name: X1\ngeneration: hopper\npeak: {bf16: 1 PFLOP/s}\nmemory_capacity: 64 GiB\nmemory_bandwidth: 2 TB/s\n"
        "sm_count: 100\ntdp: 500 W\nidle: 50 W\nhost_bandwidth: 50 GB/s\nkernels: h100-sxm-80gb\n"
    )
    gpu = catalogue.accelerator(str(path))
    h100 = catalogue.accelerator("h100")
    assert gpu.origin == h100.origin, "it takes the curves and corrections of the part whose kernels it names"
    assert replace(gpu, origin=None) == Accelerator(
        "X1", "hopper", {"bf16": 1e15}, 64 * GIB, 2e12, 100, 500, 50, 50e9, "h100-sxm-80gb"
    )


def test_all_problems_at_once_with_file_line_key_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "gpu.yaml"
    path.write_text(
        "name: X1\n"
        "generation: 7\n"
        "peak: {bf16: 1 PB/s, int8: 3 TFLOP/s}\n"
        "memory_capacity: 64 GB/s\n"
        "memory_bandwith: 2 TB/s\n"
        "sm_count: 10.5\n"
        "tdp: -500 W\n"
        "idle: 50\n"
        "host_bandwidth: 1e400 GB/s\n"
        "kernels: h100-sxm-80g\n"
        "price: {value: 2 USD, sauce: x}\n"
    )
    expected = {
        "generation": (2, "must be text"),
        "peak.bf16": (3, "989 TFLOP/s"),
        "peak.int8": (3, "bf16"),
        "memory_capacity": (4, "80 GiB"),
        "memory_bandwidth": (None, "is missing"),
        "memory_bandwith": (5, "did you mean memory_bandwidth"),
        "sm_count": (6, "whole number"),
        "tdp": (7, "negative"),
        "idle": (8, "has no unit"),
        "host_bandwidth": (9, "not finite"),
        "kernels": (10, "did you mean h100-sxm-80gb"),
        "price": (11, "USD/h"),
        "price.sauce": (11, "only source is"),
    }
    with pytest.raises(InputError) as error:
        catalogue.accelerator(str(path))
    found = {problem.key: problem for problem in error.value.problems}
    assert set(found) == set(expected)
    for key, (line, words) in expected.items():
        assert found[key].line == line
        assert found[key].file == str(path)
        assert words in found[key].message


def test_every_figure_that_is_left_out_is_named_once_with_what_to_write() -> None:
    """An accelerator with nothing but a name, and a server whose mappings are empty."""
    node = {"name": "ours", "gpus": 8, "accelerator": {"name": "x1"}, "scale_up": {"kind": "nvswitch"}, "nic": {}}
    with pytest.raises(InputError) as error:
        catalogue.node(node)
    told = [(problem.key, problem.message) for problem in error.value.problems]
    accelerator = ["generation", "peak", "memory_capacity", "memory_bandwidth", "sm_count", "tdp", "idle",
                   "host_bandwidth", "kernels"]  # fmt: skip
    server = ["overhead_power", *(f"scale_up.{key}" for key in ("domain_gpus", "bandwidth", "latency")),
              *(f"nic.{key}" for key in ("technology", "bandwidth", "latency"))]  # fmt: skip
    assert sorted(key for key, _ in told) == sorted([*(f"accelerator.{key}" for key in accelerator), *server])
    messages = dict(told)
    assert messages["accelerator.tdp"] == "is missing; write e.g. 700 W"
    assert messages["scale_up.domain_gpus"] == "is missing; write a whole number of at least 1"
    assert messages["nic.technology"].startswith("is missing; write one of efa, ")
    assert all("write" in message for message in messages.values())


def test_problems_of_a_fabric_name_the_tier(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(
        "name: net\nkind: close\nrails: maybe\nplanes: 0\ntiers:\n"
        "  - {name: leaf, radix: 64, port_bandwidth: 400 Gb/s, latency: 1 us, reach_gpus: 64}\n"
        "  - {name: spine, radix: many, port_bandwidth: 400 Gb, latency: 1 us, reach_gpus: 32}\n"
    )
    found = "\n".join(problems(catalogue.fabric, str(path)))
    for words in (
        f"{path}:2: kind: 'close' is not known; did you mean clos?",
        f"{path}:3: rails: must be true or false, not 'maybe'",
        f"{path}:4: planes: must be a whole number of at least 1, not 0",
        f"{path}:5: tiers: must be listed lowest first, reaching ever more GPUs, not [64, 32]",
        f"{path}:7: tiers.1.radix: must be a whole number of at least 1, not 'many'",
        f"{path}:7: tiers.1.port_bandwidth: '400 Gb': 'Gb' measures bytes",
    ):
        assert words in found
    assert len(found.splitlines()) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a mapping"),
        ("- 1", "must be a mapping"),
        ("name: [", "not valid YAML"),
        ("name: a\nname: b", "given twice, first on line 1"),
        ("a: &x [1]\nb: *x", "alias"),
        ("[" * 2000, "nested deeper"),
        ("tdp: !!python/object/apply:os.system ['true']", "tags are not read"),
        ("\x00", "not valid YAML"),
        ("base: h10", "did you mean"),
        ("base: {}", "must be a catalogue name"),
        ("base: h100\npeak: 3", "must be a mapping"),
        ("base: h100\ntdp:", "is empty"),
    ],
)
def test_broken_files_are_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gpu.yaml"
    path.write_text(text)
    assert words in "\n".join(problems(catalogue.accelerator, str(path)))


def test_unreadable_files_are_refused_in_words(tmp_path: Path) -> None:
    assert "no such file" in problems(catalogue.node, str(tmp_path / "none.yaml"))[0]
    (tmp_path / "dir.yaml").mkdir()
    assert "is a directory" in problems(catalogue.node, str(tmp_path / "dir.yaml"))[0]
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    assert "not UTF-8" in problems(catalogue.node, str(tmp_path / "binary.yaml"))[0]
    assert "null byte" in problems(catalogue.node, "a\0.yaml")[0]


def test_cluster_of_a_published_run() -> None:
    cluster = catalogue.cluster(2048, "h800", "mpft")
    assert cluster.nodes == 256
    assert cluster.accelerator.name == "H800-SXM-80GB"
    assert cluster.name == "2048 x H800-SXM-80GB"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2049, "h800", "mpft"), ["gpus: 2049 do not fill servers of 8; 2048 or 2056 would"]),
        ((32768, "h800", "mpft"), ["fabric: deepseek-8plane joins at most 16384 GPUs"]),
        ((16, "h100", "none"), ["fabric: none joins at most 8 GPUs"]),
        ((0, "h100", "none"), ["gpus: must be a whole number"]),
        ((8, 7, ["none"]), ["node: must be a catalogue name, a file or a mapping", "fabric: must be"]),
        ((True, "h10", "mpf"), ["node: node 'h10' is not known", "fabric: fabric 'mpf' is not known", "gpus: must"]),
    ],
)
def test_cluster_that_does_not_go_together(arguments: tuple[Any, ...], words: list[str]) -> None:
    found = problems(catalogue.cluster, *arguments)
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert word in text


def test_one_domain_needs_no_fabric() -> None:
    assert catalogue.cluster(72, "gb200", "none").nodes == 18
    assert catalogue.cluster(4, "h100", "none").nodes == 1


# Hardware of the published training runs and collective measurements, each as the catalogue expresses it.
@pytest.mark.parametrize(
    ("node", "gpus_per_node", "fabric", "gpus"),
    [
        ("dgx-a100-40-roce", 8, "clos-400g-2tier", 128),
        ("dgx-a100-80-roce", 8, "clos-400g-2tier", 128),
        ("dgx-a100-80-omnipath", 8, "omnipath-2tier", 384),
        ("dgx-a100-80", 8, "selene", 3072),
        ("dgx-a100-80", 8, "megascale", 12288),
        ("hgx-b200", 8, "ndr-rail-3tier", 1024),
        ("hgx-b300", 8, "xdr-rail-2tier", 1024),
        ("gb200-nvl72", 4, "nvl72-400g-3tier", 2048),
        ("gb300-nvl72", 4, "nvl72-800g-2tier", 1024),
        ("hgx-h100", 8, "eos", 10752),
        ("hgx-h100-roce", 8, "meta-24k", 16384),
        ("grand-teton-h100-96", 8, "clos-400g-3tier", 512),
        ("hgx-h200-roce", 8, "clos-400g-2tier", 256),
        ("hgx-h800", 8, "mpft", 2048),
        ("hgx-h800", 8, "mrft", 2048),
        ("aws-p4de", 8, "aws-efa", 16),
        ("aws-p5", 8, "aws-efa", 16),
        ("gcp-a3-high", 8, "clos-400g-2tier", 16),
    ],
)
def test_measured_hardware_can_be_expressed(node: str, gpus_per_node: int, fabric: str, gpus: int) -> None:
    cluster = catalogue.cluster(gpus, node, fabric)
    assert cluster.nodes == math.ceil(gpus / gpus_per_node)


def test_a_part_with_fewer_multiprocessors_computes_less() -> None:
    """66 of an H100's 132: half of its 989.4 TFLOP/s in 16 bit, unless the part writes a peak of its own."""
    whole = catalogue.accelerator("h100")
    half = catalogue.accelerator({"base": "h100", "sm_count": 66})
    assert half.peak_flops_per_s == pytest.approx({name: peak / 2 for name, peak in whole.peak_flops_per_s.items()})
    own = catalogue.accelerator({"base": "h100", "sm_count": 66, "peak": {"bf16": "900 TFLOP/s"}})
    assert own.peak_flops_per_s["bf16"] == 900e12
    times = [float(gemm_s(part, "bf16", 4096, 4096, 4096)) for part in (half, whole)]
    assert times[0] > 1.8 * times[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"tdp": "20 kW"}, "20000 W is not believed"), ({"sm_count": 4096}, "4096 is not believed"),
     ({"idle": "2 kW", "tdp": "3 kW"}, "2000 W is not believed"),
     ({"memory_capacity": "80 TB"}, "80 TB is not believed of one accelerator; 1 GB to 4 TB is")],
)  # fmt: skip
def test_figures_that_no_accelerator_has_are_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        catalogue.accelerator({"base": "h100", **change})


@pytest.mark.parametrize(
    ("change", "told"),
    [({"overhead_power": "4.6 MW"}, "not believed of one server; 0 W to 200 kW is"),
     ({"nic": {"bandwidth": "1 Mb/s"}}, "not believed of one GPU's network card; 1 Gb/s to 20 Tb/s is"),
     ({"cooling": "water"}, "choose from air, immersion, liquid")],
)  # fmt: skip
def test_figures_that_no_server_has_are_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        catalogue.node({"base": "hgx-h100", **change})


@pytest.mark.parametrize(("written", "told"), [("128k", "Write 131072 or 128000"), ("8K", "Write 8192 or 8000")])
def test_thousands_written_as_k_are_told_in_digits(written: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        catalogue.node({"base": "hgx-h100", "gpus": written})
    with pytest.raises(InputError, match=r"not '\w*x\w*'$"):
        catalogue.node({"base": "hgx-h100", "gpus": f"{written}x"})
