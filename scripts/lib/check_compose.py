"""Checks docker-compose.yml without a container engine. Prints every problem; exit 1 when there is one.

    check_compose.py SCHEMA FILE ENV_EXAMPLE

SCHEMA is the JSON schema of the Compose specification. Beyond the schema: dependencies exist and can fulfil their
condition, images name a version, the settings given to our own services are settings that exist, and the defaults here
are the program's defaults. It does not check that an image can be pulled or that a container starts.
"""

import json
import re
import sys

import jsonschema
import yaml

# Variables of the compose file itself, in no program.
OWN_VARIABLES = {"WEB_PORT", "KAFKA_HEAP"}
OUR_IMAGE = "thousandx:local"


def main() -> int:
    schema_path, compose_path, env_path = sys.argv[1:]
    with open(schema_path, encoding="utf-8") as file:
        schema = json.load(file)
    with open(compose_path, encoding="utf-8") as file:
        text = file.read()
    compose = yaml.safe_load(text)
    services = compose.get("services", {})
    problems = [
        *schema_problems(schema, compose),
        *image_problems(services),
        *dependency_problems(services),
        *setting_problems(services, text, read_settings(env_path)),
    ]
    for problem in problems:
        print(f"{compose_path}: {problem}")
    return 1 if problems else 0


def schema_problems(schema: dict, compose: dict) -> list[str]:
    # The schema of that version has no top-level "name" yet; the specification has had it since 2022.
    known = {key: value for key, value in compose.items() if key != "name"}
    # Keys that a newer specification has and this schema has not would show here, too: then bring a newer schema.
    validator = jsonschema.Draft7Validator(schema)
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(known)]


def image_problems(services: dict) -> list[str]:
    problems = []
    for name, service in services.items():
        image = service.get("image", "")
        if not re.search(r":[^/]+$", image) or image.endswith(":latest"):
            problems.append(f"{name}: the image {image!r} names no version")
    return problems


def dependency_problems(services: dict) -> list[str]:
    problems = []
    for name, service in services.items():
        for other, dependency in service.get("depends_on", {}).items():
            if other not in services:
                problems.append(f"{name} depends on {other}, which is no service")
            elif dependency["condition"] == "service_healthy" and "test" not in services[other].get("healthcheck", {}):
                problems.append(f"{name} waits for {other} to be healthy, which has no health check")
    return problems


def setting_problems(services: dict, text: str, settings: dict[str, str]) -> list[str]:
    problems = []
    for name, service in services.items():
        if service.get("image") == OUR_IMAGE:
            unknown = set(service.get("environment", {})) - set(settings)
            problems += [f"{name}: {key} is no setting" for key in sorted(unknown)]
    for key, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text):
        if key in OWN_VARIABLES:
            continue
        if key not in settings:
            problems.append(f"${{{key}}} is no setting")
        elif settings[key] != default:
            problems.append(f"${{{key}:-{default}}}: the program's default is {settings[key]!r}")
    return problems


def read_settings(env_path: str) -> dict[str, str]:
    """Names and defaults; a setting without a default is commented out: `# NAME=example`."""
    with open(env_path, encoding="utf-8") as file:
        return dict(re.findall(r"^(?:#\s?)?([A-Z][A-Z0-9_]+)=(.*)$", file.read(), re.MULTILINE))


if __name__ == "__main__":
    sys.exit(main())
