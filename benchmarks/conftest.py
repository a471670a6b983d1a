"""What goes into the JSON of results: medians and quartiles, not every single time; no machine's name."""


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.pop("node", None)
    machine_info["cpu"].pop("flags", None)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for case in output_json["benchmarks"]:
        case["stats"].pop("data", None)
        case.pop("params", None)
        case.pop("options", None)
