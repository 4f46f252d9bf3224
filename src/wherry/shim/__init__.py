"""The shim: one small single-threaded process, the parent of all containers of a supervisor.

It is started by exec and outlives its supervisor. It clones containers' first processes, reaps them, and holds
descriptors (the log pipes' read ends, the channels to starting containers), so that a supervisor can die and the next
one lose nothing. It decides nothing.
"""
