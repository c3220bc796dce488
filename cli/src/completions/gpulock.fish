# Completion for fish; written by `gpulock completions fish`.

function __gpulock_complete
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l current (commandline --cut-at-cursor --current-token)
    # After -- comes another command.
    if set -l dashes (contains --index -- -- $words)
        set -l line (string escape -- $words[(math $dashes + 1)..-1]) $current
        complete --do-complete (string join -- ' ' $line)
        return
    end
    set -l program (string replace --regex '^~' $HOME -- $words[1])
    $program __complete -- $words (string replace --all --regex '[\\\\\'"]' '' -- $current) 2>/dev/null
end

complete --command gpulock --no-files --arguments '(__gpulock_complete)'
