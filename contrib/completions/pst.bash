# Completion of pst, kvmd-pst and kvmd-pstrun for bash, also where bash-completion is not loaded.
# shellcheck disable=SC2207

# Where the command of `run` begins in COMP_WORDS, whose options begin at $1.
# Fails if it has not begun yet.
_pst_command() {
    local at=$1
    while ((at <= COMP_CWORD)); do
        case ${COMP_WORDS[at]} in
        --)
            REPLY=$((at + 1))
            ((REPLY <= COMP_CWORD))
            return
            ;;
        -c | --config | --socket | --need | --atomic)
            # bash makes three words of --socket=PATH.
            [[ ${COMP_WORDS[at + 1]-} == = ]] && ((at += 1))
            ((at += 2))
            ;;
        -*)
            ((at += 1))
            ;;
        *)
            REPLY=$at
            return
            ;;
        esac
    done
    return 1
}

_pst_file() {
    if declare -F _filedir >/dev/null; then
        _filedir
    else
        compopt -o default
    fi
}

_pst() {
    local cur prev words cword split subcommand options REPLY
    local subcommands="daemon run put edit status prepare check repair help"
    if declare -F _init_completion >/dev/null; then
        _init_completion -s || return
    else
        cur=$2 prev=$3 words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
        if [[ $cur == = ]]; then
            cur='' split=true
        elif [[ $prev == = ]]; then
            prev=${words[cword - 2]} split=true
        fi
    fi

    case ${1##*/} in
    kvmd-pstrun) subcommand=run REPLY=1 ;;
    kvmd-pst) subcommand=daemon ;;
    *)
        if ((cword == 1)); then
            COMPREPLY=($(compgen -W "$subcommands --help --version -h -V" -- "$cur"))
            return
        fi
        subcommand=${words[1]} REPLY=2
        ;;
    esac

    if [[ $subcommand == run ]] && _pst_command "$REPLY"; then
        if declare -F _comp_command_offset >/dev/null; then
            _comp_command_offset "$REPLY"
        elif declare -F _command_offset >/dev/null; then
            _command_offset "$REPLY"
        elif ((REPLY == cword)); then
            COMPREPLY=($(compgen -c -- "$cur"))
        else
            compopt -o default
        fi
        return
    fi

    case $subcommand:$prev in
    run:--socket | run:--atomic | put:--socket | edit:--socket | status:--socket)
        _pst_file
        return
        ;;
    help:*) ;;
    *:-c | *:--config)
        _pst_file
        return
        ;;
    daemon:--log-level)
        COMPREPLY=($(compgen -W "off error warn info debug trace" -- "$cur"))
        return
        ;;
    put:-o | put:--owner)
        COMPREPLY=($(compgen -u -- "$cur"))
        return
        ;;
    put:-m | put:--mode)
        COMPREPLY=($(compgen -W "600 640 644" -- "$cur"))
        return
        ;;
    run:--need)
        COMPREPLY=($(compgen -W "1M 5M 20M 100M" -- "$cur"))
        return
        ;;
    esac
    [[ $split == true ]] && return
    if [[ $subcommand == @(put|edit) && $cur != -* ]]; then
        _pst_file
        return
    fi

    case $subcommand in
    daemon) options="-c --config --log-level" ;;
    run) options="-q --quiet --need --atomic -c --config --socket --" ;;
    put) options="-m --mode -o --owner -p --parents --allow-empty -c --config --socket --" ;;
    edit) options="-c --config --socket --" ;;
    status) options="--json --watch -c --config --socket" ;;
    prepare) options="-c --config" ;;
    check) options="-c --config --json" ;;
    repair) options="-c --config --yes" ;;
    help)
        ((cword == 2)) && COMPREPLY=($(compgen -W "$subcommands" -- "$cur"))
        return
        ;;
    *) return ;;
    esac
    COMPREPLY=($(compgen -W "$options -h --help -V --version" -- "$cur"))
} && complete -F _pst pst kvmd-pst kvmd-pstrun
