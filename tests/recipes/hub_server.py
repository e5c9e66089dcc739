"""The part of the Hugging Face hub's HTTP interface that recipes need, in memory, on this machine alone."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote


class Hub:
    """Repositories by name: commits, the newest last, each with its files."""

    def __init__(self):
        self.repositories = {}
        self.private = {}
        self.requests = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def refused(self, status, code):
                self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                hub.requests.append((self.command, self.path))
                parts = unquote(self.path.partition("?")[0]).strip("/").split("/", 4)
                if len(parts) < 5 or parts[2] != "resolve":
                    return self.refused(404, "RepoNotFound")
                owner, name, _, revision, file = parts
                commits = hub.repositories.get(f"{owner}/{name}")
                if commits is None:
                    return self.refused(404, "RepoNotFound")
                found = [one for one in commits if revision == "main" or one[0].startswith(revision)]
                if not found:
                    return self.refused(404, "RevisionNotFound")
                commit, files = found[-1]
                if file not in files:
                    return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                etag = f'"{hashlib.sha256(files[file]).hexdigest()}"'
                return self.answer(200, files[file], ETag=etag, X_Repo_Commit=commit)

            def do_POST(self):
                hub.requests.append((self.command, self.path))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if "Bearer good" not in self.headers.get("Authorization", ""):
                    return self.refused(401, "Unauthorized")
                if self.path == "/api/repos/create":
                    asked = json.loads(body)
                    name = f"{asked.get('organization', 'me')}/{asked['name']}"
                    if name in hub.repositories:
                        return self.answer(409, json.dumps({"url": f"{hub.address}/{name}"}).encode())
                    hub.repositories[name], hub.private[name] = (
                        [],
                        asked.get("private") or asked.get("visibility") == "private",
                    )
                    return self.answer(200, json.dumps({"url": f"{hub.address}/{name}"}).encode())
                if self.path == "/api/validate-yaml":
                    return self.answer(200, b'{"errors": [], "warnings": []}')
                _, _, _, owner, repo, what, _ = self.path.partition("?")[0].split("/", 6)
                if what == "preupload":
                    files = [
                        {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for one in json.loads(body)["files"]
                    ]
                    return self.answer(200, json.dumps({"files": files}).encode())
                entries = [json.loads(line) for line in body.splitlines()]
                files = {
                    one["value"]["path"]: base64.b64decode(one["value"]["content"])
                    for one in entries
                    if one["key"] == "file"
                }
                commits = hub.repositories[f"{owner}/{repo}"]
                commit = hashlib.sha1(f"{len(commits)}".encode() + body).hexdigest()  # noqa: S324 - as git does
                commits.append((commit, {**(commits[-1][1] if commits else {}), **files}))
                done = {
                    "success": True,
                    "commitOid": commit,
                    "commitUrl": f"{hub.address}/{owner}/{repo}/commit/{commit}",
                }
                return self.answer(200, json.dumps(done).encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
