"""The ``engine`` command: a front end that talks only to ``wherry.client``.

    main        finds the command, reads its command line, runs it, maps errors to exit codes
    parser      the declaration of a command line, and a quick reader of the usual ones
    full        argparse from the same declarations: help, messages, rarer spellings
    placement   where options may stand on the command lines of start and run
    values      types of option values
    starting  listing  lifecycle  logs  reports  supervise  completion     the commands, by group
    interrupts  SIGINT and SIGTERM while run waits
    template    ps --format TEMPLATE
    names       NAME arguments and their completion
    terminal    text made safe for a terminal, bytes written promptly
    times       RFC 3339, durations and the user's zone, without datetime

Every call starts an interpreter, so a command's module is imported only when it is called, and a test holds the list of
modules that each command loads.
"""
