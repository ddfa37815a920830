# What the commands of a reading of a shell line are.
package agentgate.lib.shell

# Programs that run what they are told in their arguments, their input or a file: to allow one of them is to allow
# everything, so a list of commands is not enough for them.
runners := {
	".", "alias", "ash", "at", "awk", "bash", "batch", "bind", "builtin", "bun", "busybox", "capsh", "cargo",
	"choom", "chroot", "chrt", "command", "complete", "coproc", "crontab", "csh", "dash", "deno", "doas", "docker",
	"ed", "emacs", "enable", "env", "eval", "ex", "exec", "expect", "fakeroot", "fc", "fish", "flock", "ftp",
	"gawk", "gdb", "git", "go", "hash", "ionice", "ip", "ksh", "kubectl", "less", "lftp", "ltrace", "lua", "make",
	"man", "mapfile", "mariadb", "mawk", "more", "mysql", "nawk", "nice", "node", "nohup", "npm", "npx", "nsenter",
	"numactl", "parallel", "perl", "php", "pip", "pipx", "pkexec", "pnpm", "podman", "prlimit", "psql", "pwsh",
	"python", "python2", "python3", "readarray", "rlwrap", "Rscript", "rsync", "ruby", "run-parts", "runuser",
	"scp", "screen", "script", "sed", "setarch", "setpriv", "setsid", "sftp", "sh", "socat", "source", "sqlite3",
	"sqlplus", "ssh", "start-stop-daemon", "stdbuf", "strace", "su", "sudo", "systemd-run", "tar", "taskset",
	"tclsh", "tee", "time", "timeout", "tmux", "trap", "unshare", "uv", "valgrind", "vi", "view", "vim", "watch",
	"xargs", "yarn", "zip", "zsh",
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
	"curl": {"letters": {"c", "D", "d", "F", "K", "o", "O", "T", "w"}, "long": {
		"--output", "--remote-name", "--config", "--upload-file", "--data", "--form", "--output-dir", "--data-binary",
		"--data-raw", "--data-urlencode", "--json", "--cookie-jar", "--dump-header", "--etag-save", "--hsts", "--alt-svc",
		"--libcurl", "--stderr", "--trace", "--trace-ascii", "--write-out", "--engine",
	}},
	"fd": {"letters": {"x", "X"}, "long": {"--exec", "--exec-batch"}},
	"iconv": {"letters": {"o"}, "long": {"--output"}},
	"shuf": {"letters": {"o"}, "long": {"--output"}},
	"tree": {"letters": {"o", "R"}, "long": {"--output"}},
	"xxd": {"positional": 2},
	"yq": {"letters": {"i"}, "long": {"--inplace", "--in-place"}},
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

# What is known of a program is known of it wherever it is: `/usr/bin/find` is listed as such, and a `find`.
# Undefined for one that is known only when the line runs.
base(name) := parts[count(parts) - 1] if {
	is_string(name)
	parts := split(name, "/")
}

is_assigning(reading) if {
	some command in reading.commands
	count(command.assignments) > 0
}

runs_others(reading) := {name |
	some name in names(reading)
	base(name) in runners
}

# Commands with an argument that makes them write, delete or run something.
acts(reading) := {command.name |
	some command in reading.commands
	is_acting(command)
}

is_acting(command) if {
	some argument in words(command)
	argument in acting[base(command.name)].words
}

is_acting(command) if {
	some argument in words(command)
	some letter in acting[base(command.name)].letters
	regex.match(`^-[^-]`, argument)
	contains(argument, letter)
}

# Long options may be abbreviated: `--comp` is `--compress-program`.
is_acting(command) if {
	some argument in words(command)
	some option in acting[base(command.name)].long
	startswith(argument, "--")
	name := split(argument, "=")[0]
	count(name) > 2
	startswith(option, name)
}

is_acting(command) if {
	most := acting[base(command.name)].positional
	count([argument | some argument in words(command); not startswith(argument, "-")]) >= most
}

words(command) := [argument | some argument in command.argv; is_string(argument)]

# An argument that is known only when the line runs may be any of these.
is_acting(command) if {
	_ = acting[base(command.name)]
	some argument in command.argv
	argument == null
}

shown(name) := name if {
	is_string(name)
} else := "a command that is known only when the line runs"
