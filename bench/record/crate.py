"""RO-Crate metadata of a pack, by the Process Run Crate profile.

For each record an action whose instrument is this program, whose object is the job, and whose result is the record. No agent: a pack
names no person.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench import __version__
from bench.record.records import Record

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"


def crate_text(found: Mapping[str, Record], name: str) -> str:
    """Return ro-crate-metadata.json for records by their paths in the pack, always the same text. Imports rocrate here."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.model.softwareapplication import SoftwareApplication
    from rocrate.rocrate import ROCrate

    crate = ROCrate()
    crate.name = f"mallocost records: {name}"
    crate.description = "Training times under memory allocators: a record for each measured job."
    crate.license = "https://spdx.org/licenses/CC0-1.0"
    started = sorted(record["started_at"] for record in found.values())
    crate.root_dataset["datePublished"] = started[-1] if started else "1970-01-01"

    def add(id_: str, **properties: Any) -> Any:
        return crate.add(ContextEntity(crate, id_, properties=properties))

    profile = {"@type": ["CreativeWork", "Profile"], "name": "Process Run Crate", "version": "0.5"}
    crate.root_dataset["conformsTo"] = add(PROFILE, **profile)
    version = {"name": "mallocost", "softwareVersion": __version__}
    program = crate.add(SoftwareApplication(crate, "#mallocost", properties=version))
    actions = []
    for path, record in found.items():
        job, short = record["job"], record["sha256"][:16]
        file = {"name": f"record of {path}", "encodingFormat": "application/json", "sha256": record["sha256"]}
        asked = {"@type": "PropertyValue", "name": "job", "value": json.dumps(job, sort_keys=True)}
        state = "CompletedActionStatus" if record["valid"] else "FailedActionStatus"
        run = {
            "@type": "CreateAction",
            "name": f"{job['allocator']['name']}, {job['nodes']} nodes, block {job['repeat']}",
            "startTime": record["started_at"],
            "actionStatus": f"http://schema.org/{state}",
        }
        action = add(f"#run-{short}", **run, **({"error": record["error"]} if record["error"] else {}))
        action["instrument"], action["object"] = program, [add(f"#job-{short}", **asked)]
        action["result"] = [crate.add_file(dest_path=path, properties=file)]
        actions.append(action)
    crate.root_dataset["mentions"] = actions
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True) + "\n"
