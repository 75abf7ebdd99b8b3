"""No import cycles inside packages, which the layers of `make check` would allow."""

from graphlib import TopologicalSorter

import grimp


def test_modules_import_each_other_in_no_circle() -> None:
    # Including imports inside functions and for type checkers.
    graph = grimp.build_graph("neuneu", exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()  # raises CycleError with the cycle


def test_packages_at_the_top_are_ten() -> None:
    graph = grimp.build_graph("neuneu", cache_dir=None)
    packages = {name.split(".")[1] for name in graph.modules if name != "neuneu"}
    assert packages == {
        "cli", "core", "data", "decisions", "evaluation", "forecasters", "ladder", "reports",
        "scoring", "training",
    }  # fmt: skip
