"""Checks a folder as an RO-Crate of the Workflow Run profile with roc-validator, as far as the profile requires.

    PYTHONPATH=<where roc-validator is> python3 validate.py FOLDER

Nothing is fetched: the one JSON-LD context that the crate names is the copy beside this file, and any other address does not answer. The
copy is that of the PyPI package `rocrate` 0.9.0 (`rocrate/data/ro-crate.jsonld`); the context is in the public domain (CC0 1.0).
"""

import io
import pathlib
import sys
import urllib.request
import urllib.response
from email.message import Message

import requests
from requests.adapters import BaseAdapter

HERE = pathlib.Path(__file__).parent
CONTEXTS = {"https://w3id.org/ro/crate/1.1/context": HERE / "ro-crate-1.1.jsonld"}
TYPE = "application/ld+json"


class Copies(BaseAdapter):
    """Answers `requests`, with which the validator looks at the context."""

    def send(self, request, **_):
        answer = requests.Response()
        answer.request, answer.url = request, request.url
        copy = CONTEXTS.get(request.url)
        answer.status_code = 200 if copy else 404
        answer.raw = io.BytesIO(copy.read_bytes() if copy else b"")
        answer.headers["Content-Type"] = TYPE
        return answer

    def close(self):
        pass


class Opener(urllib.request.HTTPSHandler):
    """Answers `urllib`, with which the graph is read."""

    def https_open(self, request):
        copy = CONTEXTS.get(request.full_url)
        if copy is None:
            raise urllib.request.URLError(f"{request.full_url} is not served")
        headers = Message()
        headers["Content-Type"] = TYPE
        answer = urllib.response.addinfourl(io.BytesIO(copy.read_bytes()), headers, request.full_url, 200)
        answer.msg = "OK"
        return answer


def main(folder):
    requests.Session.get_adapter = lambda *_, **__: Copies()
    urllib.request.install_opener(urllib.request.build_opener(Opener))
    from rocrate_validator import models, services

    settings = services.ValidationSettings(
        rocrate_uri=folder,
        profile_identifier="workflow-run-crate",
        requirement_severity=models.Severity.REQUIRED,
        no_cache=True,
    )
    result = services.validate(settings)
    for issue in result.get_issues():
        print(f"{issue.check.identifier}: {issue.message}")
    checked = len(result.executed_checks)
    print(f"{checked} checks")
    sys.exit(1 if result.has_issues() else 0)


if __name__ == "__main__":
    main(sys.argv[1])
