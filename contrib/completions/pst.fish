# Completion of pst, kvmd-pst and kvmd-pstrun for fish.

# The subcommand that is typed, or that the program's name stands for.
function __pst_subcommand
    set -l tokens (commandline -opc)
    switch (string replace -r '.*/' '' -- $tokens[1])
        case kvmd-pstrun
            echo run
        case kvmd-pst
            echo daemon
        case '*'
            echo $tokens[2]
    end
end

function __pst_is
    contains -- (__pst_subcommand) $argv
    and not __pst_command >/dev/null
end

# The next word is a subcommand.
function __pst_awaits_subcommand
    set -l tokens (commandline -opc)
    test (count $tokens) -eq 1
    or test "$tokens[2..]" = help
end

# The command of `run` and its words before the cursor's, one a line; fails if
# it has not begun yet.
function __pst_command
    test (__pst_subcommand) = run
    or return 1
    set -l tokens (commandline -opc)
    switch (string replace -r '.*/' '' -- $tokens[1])
        case kvmd-pstrun
            set -e tokens[1]
        case '*'
            set -e tokens[1..2]
    end
    while set -q tokens[1]
        switch $tokens[1]
            case --
                set -e tokens[1]
                string join \n -- $tokens
                return 0
            case -c --config --socket --need --atomic
                set -q tokens[2]
                or return 1 # its value is being typed
                set -e tokens[1..2]
            case '-*'
                set -e tokens[1]
            case '*'
                string join \n -- $tokens
                return 0
        end
    end
    # The word at the cursor is the command's first, unless it is an option or an option's value.
    not string match -q -- '-*' (commandline -ct)
end

function __pst_complete_command
    set -l words (__pst_command)
    complete -C (string join ' ' -- (string escape -- $words) (commandline -ct))
end

for name in pst kvmd-pst kvmd-pstrun
    complete -c $name -f
    complete -c $name -n __pst_command -a '(__pst_complete_command)'
    complete -c $name -n '__pst_is "" run put edit status check daemon prepare repair' -s h -l help -d 'Show the options'
    complete -c $name -n '__pst_is "" run put edit status check daemon prepare repair' -s V -l version -d 'Show the version'
    complete -c $name -n '__pst_is run' -s q -l quiet -d 'Print only warnings and errors'
    complete -c $name -n '__pst_is run' -l need -x -a '1M 5M 20M 100M' -d 'Refuse unless this much is free'
    complete -c $name -n '__pst_is run' -l atomic -r -F -d 'Change a copy of this directory, then swap it in'
    complete -c $name -n '__pst_is run put edit status' -l socket -r -F -d "The daemon's socket"
    complete -c $name -n '__pst_is put edit' -F
    complete -c $name -n '__pst_is put' -s m -l mode -x -a '600 640 644' -d 'Permissions, in octal'
    complete -c $name -n '__pst_is put' -s o -l owner -x -a '(__fish_complete_users)' -d 'Owner, group or both'
    complete -c $name -n '__pst_is put' -s p -l parents -d 'Make missing directories'
    complete -c $name -n '__pst_is put' -l allow-empty -d 'Store an empty file, too'
    complete -c $name -n '__pst_is status check' -l json -d 'JSON, for programs'
    complete -c $name -n '__pst_is status' -l watch -d 'Show each change'
    complete -c $name -n '__pst_is run put edit status check daemon prepare repair' -s c -l config -r -F -d 'Config file'
    complete -c $name -n '__pst_is repair' -l yes -d 'Repair'
    complete -c $name -n '__pst_is daemon' -l log-level -x -a 'off error warn info debug trace' -d "The log's level"
end
for subcommand in \
        run\t'Run a command while the storage is writable' \
        put\t'Store a file, all or nothing' \
        edit\t'Edit a file, and store it all or nothing' \
        status\t'Show the storage and the open sessions' \
        check\t'Find problems in the installation' \
        daemon\t'Manage the storage, in the foreground' \
        prepare\t'Make the mount ready, once after each mount' \
        repair\t'Repair a storage that a power cut has torn' \
        help\t'Show the commands, or the options of one'
    complete -c pst -n __pst_awaits_subcommand -a (string split \t -- $subcommand)[1] -d (string split \t -- $subcommand)[2]
end
