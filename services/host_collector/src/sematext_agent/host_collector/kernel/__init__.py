"""OOM kills, from the kernel's log.

log_reader    reads /dev/kmsg
oom_records   finds the kills among the records
cursor        the position that is stored
translate     from records to events, gaps and cursors; no I/O
watch         connects these to the source and to the bus
"""
