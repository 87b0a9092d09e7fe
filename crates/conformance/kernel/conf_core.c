// The target on the kernel's side: threads that run functions of other modules on command.
//
// Commands are written to /proc/conf, which then holds the answer:
//   call F     the version that function F says it is of
//   park T F   thread T (0 to 2) calls F and stays inside until
//   free T     it leaves; the version of what it was in
//   hammer T F thread T calls F again and again until it is freed; then the last version
// Loading or unloading an object leaves an answer there as well.
#include <linux/completion.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include "conf_core.h"

#define THREADS 3
#define FUNCTIONS 8

struct worker {
	struct task_struct *task;
	conf_function *function;
	struct module *owner;
	bool hammers, inside, freed;
	int result;
};

struct entry {
	const char *name;
	conf_function *function;
	struct module *owner;
};

static struct entry functions[FUNCTIONS];
static struct worker workers[THREADS];
static DECLARE_WAIT_QUEUE_HEAD(changed);
static char answer[64];

void conf_register(const char *name, conf_function *function, struct module *owner)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (!functions[i].name) {
			functions[i] = (struct entry){ name, function, owner };
			return;
		}
}
EXPORT_SYMBOL_GPL(conf_register);

void conf_unregister(const char *name)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (functions[i].name && !strcmp(functions[i].name, name))
			functions[i] = (struct entry){};
}
EXPORT_SYMBOL_GPL(conf_unregister);

void conf_tell(int version)
{
	snprintf(answer, sizeof(answer), "%d", version);
}
EXPORT_SYMBOL_GPL(conf_tell);

/* What every version of every function does: stays inside if a thread is parked there. */
noinline int conf_body(int thread, int version)
{
	if (thread >= 0) {
		WRITE_ONCE(workers[thread].inside, true);
		wake_up_all(&changed);
		wait_event_idle(changed, READ_ONCE(workers[thread].freed));
	}
	return version;
}
EXPORT_SYMBOL_GPL(conf_body);

static int work(void *data)
{
	struct worker *worker = data;
	int thread = worker - workers;

	for (;;) {
		wait_event_idle(changed, READ_ONCE(worker->function) || kthread_should_stop());
		if (kthread_should_stop())
			return 0;
		if (worker->hammers) {
			WRITE_ONCE(worker->inside, true);
			wake_up_all(&changed);
			while (!READ_ONCE(worker->freed)) {
				WRITE_ONCE(worker->result, worker->function(-1));
				schedule_timeout_idle(1);
			}
		} else {
			worker->result = worker->function(thread);
		}
		WRITE_ONCE(worker->function, NULL);
		wake_up_all(&changed);
	}
}

static struct entry *find(const char *name)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (functions[i].name && !strcmp(functions[i].name, name))
			return &functions[i];
	return NULL;
}

static int say(const char *text)
{
	strscpy(answer, text, sizeof(answer));
	return 0;
}

static int obey(char *line)
{
	struct worker *worker = NULL;
	struct entry *entry;
	char name[16], verb[16];
	int thread;

	if (sscanf(line, "call %15s", name) == 1) {
		entry = find(name);
		if (!entry)
			return -ENOENT;
		snprintf(answer, sizeof(answer), "%d", entry->function(-1));
		return 0;
	}
	if (sscanf(line, "free %d", &thread) == 1 && thread >= 0 && thread < THREADS) {
		worker = &workers[thread];
		if (!READ_ONCE(worker->function))
			return -ENOENT;
		WRITE_ONCE(worker->freed, true);
		wake_up_all(&changed);
		wait_event(changed, !READ_ONCE(worker->function));
		module_put(worker->owner);
		snprintf(answer, sizeof(answer), "%d", worker->result);
		return 0;
	}
	if (sscanf(line, "%15s %d %15s", verb, &thread, name) != 3 || thread < 0 || thread >= THREADS)
		return -EINVAL;
	worker = &workers[thread];
	entry = find(name);
	if (!entry || READ_ONCE(worker->function) || !try_module_get(entry->owner))
		return -ENOENT;
	worker->owner = entry->owner;
	worker->hammers = !strcmp(verb, "hammer");
	worker->inside = worker->freed = false;
	WRITE_ONCE(worker->function, entry->function);
	wake_up_all(&changed);
	wait_event(changed, READ_ONCE(worker->inside));
	return say("inside");
}

static ssize_t conf_write(struct file *file, const char __user *from, size_t length, loff_t *at)
{
	char line[64] = { 0 };
	int error;

	if (length >= sizeof(line) || copy_from_user(line, from, length))
		return -EFAULT;
	error = obey(strim(line));
	return error ? error : length;
}

static int conf_show(struct seq_file *file, void *unused)
{
	seq_printf(file, "%s\n", answer);
	return 0;
}

static int conf_open(struct inode *inode, struct file *file)
{
	return single_open(file, conf_show, NULL);
}

static const struct proc_ops operations = {
	.proc_open = conf_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_write = conf_write,
	.proc_release = single_release,
};

static int __init conf_init(void)
{
	for (int i = 0; i < THREADS; i++) {
		workers[i].task = kthread_run(work, &workers[i], "conf-%d", i);
		if (IS_ERR(workers[i].task))
			return PTR_ERR(workers[i].task);
	}
	return proc_create("conf", 0600, NULL, &operations) ? 0 : -ENOMEM;
}

module_init(conf_init);
MODULE_DESCRIPTION("target of engraft's conformance tests");
MODULE_LICENSE("GPL");
