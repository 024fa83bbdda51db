"""The picture as a whole, read back as XML."""

import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import pairwise

import pytest

from factories.graphs import random_graph
from factories.pictures import (
    fan,
    in_order,
    long_chain,
    plan_by_hand,
    random_runs,
    random_tiers,
    renamed,
    residual_network,
    tangle,
    tiled,
)
from tierflow.graph import Graph
from tierflow.segment import Route
from tierflow.tiers import Tier
from tierflow_cli.picture.draw import draw
from tierflow_cli.picture.svg import text_width

SVG = "{http://www.w3.org/2000/svg}"


def drawn(graph: Graph, device: float = 0.3, edge: float = 0.7, route: Route = Route.RELAYED) -> str:
    plan, latency = plan_by_hand(graph, in_order(graph, device, edge), route)
    return draw(graph, plan, latency)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def strips(svg: str) -> list[tuple[float, float, list[str]]]:
    """Top and bottom of each run's strip, with what is said of it."""
    found = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        frame, lines = group.find(f"{SVG}rect"), group.findall(f"{SVG}text")
        if group.find(f"{SVG}title") is not None and lines and frame is not None and "stroke-dasharray" in frame.attrib:
            top = float(frame.attrib["y"])
            found.append((top, top + float(frame.attrib["height"]), ["".join(line.itertext()) for line in lines]))
    return found


def boxes(svg: str) -> Iterator[tuple[float, float, float, float, list[str]]]:
    """Left, top, right and bottom of everything that has text on a shape, with that text."""
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        shapes, own = group.findall(f"{SVG}rect"), group.findall(f"{SVG}text")
        if group.find(f"{SVG}title") is not None and shapes and own:
            left, top, width, height = (float(shapes[-1].attrib[key]) for key in ("x", "y", "width", "height"))
            yield left, top, left + width, top + height, ["".join(line.itertext()) for line in own]


@pytest.mark.parametrize("seed", range(5))
def test_any_partition_of_any_graph_has_a_picture_without_overlaps(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(40):
        graph = random_graph(generator, generator.randrange(0, 90), weights=True)
        tiers = random_tiers(generator, graph)
        direct = Tier.EDGE not in tiers and generator.random() < 0.5
        plan, latency = plan_by_hand(graph, tiers, Route.DIRECT if direct else Route.RELAYED)
        svg = draw(graph, tiled(graph, plan, random_runs(generator, tiers)), latency)
        found = list(boxes(svg))
        for number, (left, top, right, bottom, _) in enumerate(found):
            for left2, top2, right2, bottom2, _ in found[:number]:
                # Coordinates are rounded to a tenth.
                apart = right <= left2 + 0.2 or right2 <= left + 0.2 or bottom <= top2 + 0.2 or bottom2 <= top + 0.2
                assert apart


@pytest.mark.parametrize(
    "graph",
    [residual_network(3), residual_network(8), residual_network(300), long_chain(60), tangle(80, 9), fan(25), fan(900)],
    ids=["small", "medium", "repeated", "chain", "tangle", "fan", "wide fan"],
)
def test_texts_fit_into_their_boxes_and_boxes_onto_the_page(graph: Graph) -> None:
    svg = drawn(graph)
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for left, top, right, bottom, lines in boxes(svg):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        for line in lines:
            assert text_width(line, 10.5) <= right - left
    assert width < 4000
    assert height < 6000


def test_the_picture_says_what_the_plan_says() -> None:
    graph = residual_network(4)
    plan, latency = plan_by_hand(graph, in_order(graph, 0.3, 0.7))
    found = texts(draw(graph, plan, latency))
    for segment in plan.segments:
        assert any(text.startswith(f"{segment.layers} layers") for text in found)
    assert "18.9 Mbit/s" in " ".join(found)
    assert all(tier.value in found for tier in Tier)
    assert sum(text.endswith("8.19 kB") for text in found) >= 2
    assert {layer.name for layer in graph.layers} <= set(found)


def test_what_goes_straight_to_the_cloud_is_written_once() -> None:
    svg = drawn(residual_network(4), device=0.3, edge=0.3, route=Route.DIRECT)
    found = texts(svg)
    assert "no layers: takes no part" in found
    assert any(text.startswith("device to cloud:") for text in found)
    assert not any(text.startswith("edge to cloud:") for text in found)
    assert sum(text == "1×8×16×16 · 8.19 kB" for text in found) >= 2


def test_an_edge_that_only_relays_says_so() -> None:
    assert "no layers: passes tensors on" in texts(drawn(residual_network(4), device=0.3, edge=0.3))


def test_each_run_has_a_strip_of_its_own_that_holds_its_boxes_and_no_others() -> None:
    graph = residual_network(4)
    plan, latency = plan_by_hand(graph, in_order(graph, 0.2, 0.9))
    edge = plan.segment(Tier.EDGE).segment.layers
    runs = (edge[1:7], edge[7:10], edge[12:])
    svg = draw(graph, tiled(graph, plan, runs), latency)
    found = strips(svg)
    assert len(found) == 3
    assert all(above[1] < below[0] for above, below in pairwise(found))
    held = [
        {lines[0] for _, top, _, bottom, lines in boxes(svg) if upper <= top and bottom <= lower}
        for upper, lower, _ in found
    ]
    names = [{graph.layers[place].name for place in run} for run in runs]
    assert [inside & {layer.name for layer in graph.layers} for inside in held] == names


def test_a_strip_says_grid_workers_halo_times_and_bytes_and_the_legend_what_a_strip_is() -> None:
    graph = residual_network(4)
    plan, latency = plan_by_hand(graph, in_order(graph, 0.2, 0.9))
    (run,) = runs = (plan.segment(Tier.EDGE).segment.layers[2:9],)
    plain, drawn_tiled = draw(graph, plan, latency), draw(graph, tiled(graph, plan, runs), latency)
    ((_, _, said),) = strips(drawn_tiled)
    assert said == ["2x2 on 4 workers, halo 1.25", "2 ms instead of 5 ms", "400 kB out, 100 kB back"]
    assert f"{len(run)} layers in tiles, in 1 run" in texts(drawn_tiled)
    legend = "computed as tiles by the edge's workers"
    assert legend in texts(drawn_tiled)
    assert legend not in texts(plain)
    assert not strips(plain)


def test_the_edge_s_workers_are_named_where_there_is_more_room() -> None:
    plan, latency = plan_by_hand(residual_network(4), in_order(residual_network(4), 0.2, 0.9))
    short, long = (
        texts(draw(residual_network(4), plan, latency, remark, "2 workers")) for remark in ("short", "x" * 90)
    )
    assert "short · 2 workers" in short
    assert any(text.endswith("cloud 1 · 2 workers") for text in long)
    assert any(text.endswith("cloud 1") for text in short)


def test_what_is_said_of_runs_stays_on_the_page() -> None:
    for graph in (residual_network(1), residual_network(8), tangle(80, 9)):
        plan, latency = plan_by_hand(graph, in_order(graph, 0, 1))
        svg = draw(graph, tiled(graph, plan, (range(1, len(graph.layers) // 2),)), latency)
        width = float(ElementTree.fromstring(svg).attrib["width"])
        for line in ElementTree.fromstring(svg).iter(f"{SVG}text"):
            if line.attrib["class"] in {"run", "note"}:
                assert float(line.attrib["x"]) + text_width("".join(line.itertext()), 12) <= width


def test_the_same_plan_is_the_same_picture() -> None:
    assert drawn(tangle(70, 8)) == drawn(tangle(70, 8))


HOSTILE = [
    "</text><script>alert(1)</script>",
    '" onload="alert(1)',
    "a & b < c > d",
    "\x00\x1b[31mred\x07\x08",
    "\u202eright to left",
    "\ud800 alone",
    "名前" * 40,
    "x" * 5000,
    "]]>",
    "<!-- -->",
    "&lt;",
    "line\nbreak",
    "$(rm -rf /)",
    "{{template}}",
]


def test_names_cannot_break_out_of_their_place() -> None:
    graph = renamed(long_chain(len(HOSTILE)), HOSTILE)
    svg = drawn(graph)
    svg.encode("utf-8")
    root = ElementTree.fromstring(svg)
    plain = ElementTree.fromstring(drawn(long_chain(len(HOSTILE))))
    assert [element.tag for element in root.iter()] == [element.tag for element in plain.iter()]
    assert not any(key.startswith("on") for element in root.iter() for key in element.attrib)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", svg)


def test_a_very_large_graph_stays_a_small_file() -> None:
    assert len(drawn(tangle(5000, 3000))) < 300_000
