# What the commands of a reading of a shell line are.
package agentgate.lib.shell

# Programs that run what they are told in their arguments, their input or a file: to allow one of them is to allow
# everything, so a list of commands is not enough for them.
runners := {
	".", "ash", "at", "awk", "bash", "batch", "bun", "busybox", "capsh", "chroot", "command", "coproc", "csh", "dash",
	"deno", "docker", "doas", "ed", "emacs", "env", "eval", "ex", "exec", "expect", "fish", "flock", "gawk", "gdb",
	"git", "ionice", "ksh", "kubectl", "less", "lua", "make", "man", "mawk", "more", "nice", "node", "nohup",
	"nsenter", "parallel", "perl", "php", "pkexec", "podman", "psql", "python", "python2", "python3", "rsync", "ruby",
	"run-parts", "runuser", "screen", "script", "sed", "setarch", "setpriv", "setsid", "sh", "socat", "source",
	"sqlite3", "ssh", "stdbuf", "strace", "su", "sudo", "systemd-run", "tar", "taskset", "tclsh", "tee", "time",
	"timeout", "tmux", "trap", "unshare", "vi", "view", "vim", "watch", "xargs", "zsh", "zip",
}

# Options that turn a reader into something else: words as they are, letters of short options, long options.
acting := {
	"find": {"words": {
		"-delete", "-exec", "-execdir", "-ok", "-okdir", "-fprint", "-fprint0", "-fprintf", "-fls", "-files0-from",
	}},
	"sort": {"letters": {"o", "T"}, "long": {"--output", "--compress-program", "--temporary-directory"}},
	"rg": {"long": {"--pre", "--hostname-bin"}},
	"ripgrep": {"long": {"--pre", "--hostname-bin"}},
	"date": {"letters": {"s"}, "long": {"--set"}},
	"curl": {"letters": {"o", "O", "K", "T", "d", "F"}, "long": {
		"--output", "--remote-name", "--config", "--upload-file", "--data", "--form", "--output-dir", "--data-binary",
		"--data-raw", "--data-urlencode", "--json",
	}},
	"file": {"letters": {"C", "m"}, "long": {"--compile", "--magic-file"}},
	"uniq": {"positional": 2},
}

names(reading) := {name |
	some command in reading.commands
	name := command.name
}

# Commands that are not on the list, or are known only when the line runs. A path is not a name: `/tmp/ls` is not `ls`.
not_listed(reading, listed) := {shown(name) |
	some name in names(reading)
	not name in listed
	name != ""
}

is_assigning(reading) if {
	some command in reading.commands
	count(command.assignments) > 0
}

runs_others(reading) := {name |
	some name in names(reading)
	name in runners
}

# Commands with an argument that makes them write, delete or run something.
acts(reading) := {command.name |
	some command in reading.commands
	is_acting(command)
}

is_acting(command) if {
	some argument in words(command)
	argument in acting[command.name].words
}

is_acting(command) if {
	some argument in words(command)
	some letter in acting[command.name].letters
	regex.match(`^-[^-]`, argument)
	contains(argument, letter)
}

# Long options may be abbreviated: `--comp` is `--compress-program`.
is_acting(command) if {
	some argument in words(command)
	some option in acting[command.name].long
	startswith(argument, "--")
	name := split(argument, "=")[0]
	count(name) > 2
	startswith(option, name)
}

is_acting(command) if {
	most := acting[command.name].positional
	count([argument | some argument in words(command); not startswith(argument, "-")]) >= most
}

words(command) := [argument | some argument in command.argv; is_string(argument)]

# An argument that is known only when the line runs may be any of these.
is_acting(command) if {
	_ = acting[command.name]
	some argument in command.argv
	argument == null
}

shown(name) := name if {
	is_string(name)
} else := "a command that is known only when the line runs"
