/* What nobody can do without: switch the superblock read-write, fork and exec a
 * command, wait for it, switch the superblock read-only. Checks everything,
 * promises nothing. Usage: floor MOUNT COMMAND [ARGUMENT...] */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* From linux/mount.h. */
enum { FSPICK_CLOEXEC = 1, FSCONFIG_SET_FLAG = 0, FSCONFIG_CMD_RECONFIGURE = 7 };

static void must(long result, const char *what)
{
	if (result == -1) {
		perror(what);
		exit(1);
	}
}

static void switch_superblock(const char *mount, const char *flag)
{
	long context = syscall(SYS_fspick, AT_FDCWD, mount, FSPICK_CLOEXEC);
	must(context, "fspick");
	must(syscall(SYS_fsconfig, context, FSCONFIG_SET_FLAG, flag, NULL, 0), "fsconfig");
	must(syscall(SYS_fsconfig, context, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0), flag);
	close((int)context);
}

int main(int argc, char **argv)
{
	int status = 0;
	if (argc < 3)
		return 2;
	switch_superblock(argv[1], "rw");
	pid_t pid = fork();
	must(pid, "fork");
	if (pid == 0) {
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	must(waitpid(pid, &status, 0), "waitpid");
	switch_superblock(argv[1], "ro");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
