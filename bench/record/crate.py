"""RO-Crate metadata of a pack, by the Process Run Crate profile: for each record an action whose instrument is this program, whose
objects are nothing but the job, and whose result is the record. No agent: a pack names no person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench import __version__
from bench.record.records import Record

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"


def crate_text(found: Mapping[str, Record], name: str) -> str:
    """ro-crate-metadata.json for records by their paths in the pack, the same text each time. Needs rocrate, imported here."""
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
    program = crate.add(
        SoftwareApplication(crate, "#mallocost", properties={"name": "mallocost", "softwareVersion": __version__})
    )
    actions = []
    for path, record in found.items():
        job = record["job"]
        result = crate.add_file(
            dest_path=path,
            properties={"name": f"record of {path}", "encodingFormat": "application/json", "sha256": record["sha256"]},
        )
        asked = add(
            f"#job-{record['sha256'][:16]}",
            **{"@type": "PropertyValue", "name": "job", "value": json.dumps(job, sort_keys=True)},
        )
        state = "CompletedActionStatus" if record["valid"] else "FailedActionStatus"
        action = add(
            f"#run-{record['sha256'][:16]}",
            **{
                "@type": "CreateAction",
                "name": f"{job['allocator']['name']}, {job['nodes']} nodes, block {job['repeat']}",
                "startTime": record["started_at"],
                "actionStatus": f"http://schema.org/{state}",
                **({"error": record["error"]} if record["error"] else {}),
            },
        )
        action["instrument"], action["object"], action["result"] = program, [asked], [result]
        actions.append(action)
    crate.root_dataset["mentions"] = actions
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True) + "\n"
