"""Packages that are installed and removed, on the host and in its running containers.

    scan_patterns, processes        where packages may be: usual directories, running programs
    search_schedule, scan_roots     when to search for scan roots, and which of them exist
    readers                         what a scan root holds: dpkg, rpm, Python, Node
    inventory, diff, translate      from two scans to changes, from changes to events
    inventory_store                 the cursors: the last inventory of each root that is stored
    watcher, tracked_root, scanner  when to scan each root
    watch                           connects these to the bus

The first scan of a root is its baseline, which emits no events.
"""
