/*
 * An agent that confines its own tools, without privilege: Landlock for files, a seccomp filter of its own for calls.
 * `landlock abi` prints the kernel's Landlock version, or why there is none.
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *attempt(const char *path)
{
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    const char *answer = file < 0 ? strerrorname_np(errno) : "written";
    if (file >= 0)
        close(file);
    return answer;
}

static void tool(void)
{
    unsigned long long writes = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG;
    struct landlock_ruleset_attr handled = {.handled_access_fs = writes};
    int rules = syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
    if (rules < 0)
        err(1, "landlock_create_ruleset");
    struct landlock_path_beneath_attr beneath = {writes, open("/agent/runtime", O_PATH)};
    if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0))
        err(1, "landlock_add_rule");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, rules, 0))
        err(1, "landlock_restrict_self");
    printf("confined: inside %s, outside %s\n", attempt("/agent/runtime/file"), attempt("/agent/logs/after"));

    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        err(1, "seccomp");
    printf("own filter: %s\n", syscall(SYS_getppid) < 0 ? strerrorname_np(errno) : "no answer");
}

int main(int count, char **words)
{
    setbuf(stdout, NULL);
    if (count > 1) {
        int abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
        puts(abi > 0 ? "there" : strerrorname_np(errno));
        return 0;
    }
    printf("before: inside %s, outside %s\n", attempt("/agent/runtime/before"), attempt("/agent/logs/before"));
    pid_t child = fork();
    if (child == 0) {
        tool();
        return 0;
    }
    int status;
    waitpid(child, &status, 0);
    printf("agent itself: outside %s, tool %d\n", attempt("/agent/logs/agent"), status);
}
