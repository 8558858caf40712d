/*
 * Delivery of exceptions, interrupts and software interrupts through the IDT, and what becomes of faults meanwhile: double fault,
 * triple fault. (SDM volume 3, chapter 6 and sections 20.1.4, 20.3; AMD APM volume 2, chapter 8.)
 */
#include <string.h>

#include "vm/accel/soft/cpu/cpu_int.h"

enum event_source { EVENT_FAULT, EVENT_EXTERNAL, EVENT_SOFTWARE };

struct event {
	uint8_t vector;
	enum event_source source;
	bool has_error;
	uint32_t error;
	uint64_t rip;   /* pushed */
	uint64_t flags; /* pushed */
};

/* A gate of the IDT. */
struct idt_gate {
	uint16_t selector;
	uint64_t offset;
	unsigned type, ist;
};

static void real_deliver(struct soft_cpu *cpu, const struct event *e)
{
	uint64_t at = cpu->idt.base + e->vector * 4u;
	uint32_t entry;
	struct stack s;

	if (e->vector * 4u + 3 > cpu->idt.limit)
		cpu_raise_error(cpu, VEC_GP, e->vector * 8u + 2);
	entry = (uint32_t)mem_read_system(cpu, at & 0xFFFFFFFF, 4);
	stack_current(cpu, &s);
	stack_push(&s, 2, e->flags);
	stack_push(&s, 2, cpu->seg[SEG_CS].selector);
	stack_push(&s, 2, e->rip);
	stack_commit_sp(&s);
	seg_load_real(cpu, SEG_CS, (uint16_t)(entry >> 16));
	cpu->rip = cpu->next_rip = entry & 0xFFFF;
	cpu_set_rflags(cpu, cpu_get_rflags(cpu) & ~(uint64_t)(RF_IF | RF_TF | RF_AC | RF_RF));
}

_Noreturn static void raise_gate(struct soft_cpu *cpu, enum cpu_vector vector, uint8_t number)
{
	cpu_raise_error(cpu, vector, number * 8u + 2 + (cpu->tlbs->external ? 1 : 0));
}

static void gate_read(struct soft_cpu *cpu, const struct event *e, struct idt_gate *ret)
{
	unsigned size = cpu_long(cpu) ? 16 : 8;
	uint64_t at = cpu->idt.base + e->vector * size, low;
	bool known;

	if (e->vector * size + size - 1 > cpu->idt.limit)
		raise_gate(cpu, VEC_GP, e->vector);
	if (!cpu_long(cpu))
		at &= 0xFFFFFFFF;
	low = mem_read_system(cpu, at, 8);
	ret->type = (unsigned)(low >> 40) & 0x1F;
	ret->selector = (uint16_t)(low >> 16);
	ret->ist = 0;
	ret->offset = low & 0xFFFF;
	if (ret->type & 8)
		ret->offset |= low >> 32 & 0xFFFF0000;
	known = ret->type == SYS_INT32 || ret->type == SYS_TRAP32;
	if (size == 16) {
		ret->ist = (unsigned)(low >> 32) & 7;
		ret->offset |= mem_read_system(cpu, at + 8, 4) << 32;
	} else {
		known |= ret->type == SYS_INT16 || ret->type == SYS_TRAP16 ||
			 ret->type == SYS_TASK_GATE;
	}
	if (!known || (e->source == EVENT_SOFTWARE && (low >> 45 & 3) < cpu->cpl))
		raise_gate(cpu, VEC_GP, e->vector);
	if (!(low >> 47 & 1))
		raise_gate(cpu, VEC_NP, e->vector);
}

static void task_gate(struct soft_cpu *cpu, const struct idt_gate *g, const struct event *e)
{
	struct desc d;
	unsigned type;

	if ((g->selector & 4) || selector_null(g->selector) || !desc_read(cpu, g->selector, &d))
		raise_selector(cpu, VEC_GP, g->selector);
	type = desc_type(&d);
	if (!desc_is_system(&d) || (type != SYS_TSS16 && type != SYS_TSS32))
		raise_selector(cpu, VEC_GP, g->selector);
	if (!desc_present(&d))
		raise_selector(cpu, VEC_NP, g->selector);
	task_switch(cpu, &d, TASK_GATE, e->rip, e->has_error ? &e->error : NULL);
	cpu->rip = cpu->next_rip;
}

/* The stack that the handler starts on. */
static void handler_stack(struct soft_cpu *cpu, const struct idt_gate *g, unsigned cpl,
			  struct stack *ret)
{
	bool inner = cpl < cpu->cpl;

	if (cpu_long(cpu)) {
		struct soft_seg ss = inner ? seg_null_stack((uint16_t)cpl, cpl) : cpu->seg[SEG_SS];
		uint64_t rsp = cpu->gpr[4];

		if (g->ist)
			rsp = tss_rsp64(cpu, 0x24 + 8 * (g->ist - 1));
		else if (inner)
			rsp = tss_rsp64(cpu, 4 + 8 * cpl);
		stack_new(cpu, ret, &ss, rsp & ~15ULL, cpl, true);
		ret->error = cpu->tlbs->external;
	} else if (inner) {
		tss_stack(cpu, cpl, ret);
	} else {
		stack_current(cpu, ret);
	}
}

static void push_frame(struct soft_cpu *cpu, struct stack *s, unsigned size, bool with_stack,
		       const struct event *e)
{
	if (cpu_v86(cpu)) {
		stack_push(s, size, cpu->seg[SEG_GS].selector);
		stack_push(s, size, cpu->seg[SEG_FS].selector);
		stack_push(s, size, cpu->seg[SEG_DS].selector);
		stack_push(s, size, cpu->seg[SEG_ES].selector);
	}
	if (with_stack) {
		stack_push(s, size, cpu->seg[SEG_SS].selector);
		stack_push(s, size, cpu->gpr[4]);
	}
	stack_push(s, size, e->flags);
	stack_push(s, size, cpu->seg[SEG_CS].selector);
	stack_push(s, size, e->rip);
	if (e->has_error)
		stack_push(s, size, e->error);
}

static void leave_v86(struct soft_cpu *cpu)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < 4; i++)
		cpu->seg[data[i]] = (struct soft_seg){0};
}

static void protected_deliver(struct soft_cpu *cpu, const struct event *e)
{
	struct idt_gate g;
	struct desc code;
	struct target t;
	struct stack s;
	unsigned size;
	uint64_t gone = RF_TF | RF_NT | RF_RF | RF_VM;

	gate_read(cpu, e, &g);
	if (g.type == SYS_TASK_GATE) {
		task_gate(cpu, &g, e);
		return;
	}
	gate_target(cpu, g.selector, cpu_long(cpu), &code);
	t = (struct target){.cs = desc_seg(&code), .rip = g.offset, .cpl = cpu->cpl};
	if (!desc_is_conforming(&code))
		t.cpl = desc_dpl(&code);
	if (cpu_v86(cpu) && t.cpl != 0)
		raise_selector(cpu, VEC_GP, g.selector);
	handler_stack(cpu, &g, t.cpl, &s);
	target_check_rip(cpu, &t);
	size = cpu_long(cpu) ? 8 : g.type & 8 ? 4 : 2;
	push_frame(cpu, &s, size, cpu_long(cpu) || t.cpl < cpu->cpl, e);
	desc_touch(cpu, &code);
	if (cpu_v86(cpu))
		leave_v86(cpu);
	if (!(g.type & 1))
		gone |= RF_IF;
	cpu->seg[SEG_SS] = s.seg;
	stack_commit_sp(&s);
	cpu->rflags &= ~(uint32_t)gone;
	target_enter(cpu, &t);
	cpu->rip = cpu->next_rip;
}

static void deliver(struct soft_cpu *cpu, const struct event *e)
{
	if (cpu->cr0 & CR0_PE)
		protected_deliver(cpu, e);
	else
		real_deliver(cpu, e);
}

static bool contributory(uint8_t vector)
{
	return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP);
}

/* A fault met while `first` was being delivered. False: that was a double fault already. */
static bool combine(uint8_t first, bool first_is_fault, struct soft_fault *second)
{
	if (!first_is_fault)
		return true;
	if (first == VEC_DF)
		return false;
	if ((contributory(first) && contributory(second->vector)) ||
	    (first == VEC_PF && (contributory(second->vector) || second->vector == VEC_PF)))
		*second = (struct soft_fault){.vector = VEC_DF, .has_error = true};
	return true;
}

/* Delivers without unwinding past here. */
static bool attempt(struct soft_cpu *cpu, const struct event *e)
{
	jmp_buf outer;

	memcpy(&outer, &cpu->unwind, sizeof(outer));
	cpu->tlbs->external = e->source != EVENT_SOFTWARE;
	if (setjmp(cpu->unwind) == 0) {
		deliver(cpu, e);
		cpu->tlbs->external = false;
		memcpy(&cpu->unwind, &outer, sizeof(outer));
		return true;
	}
	cpu->tlbs->external = false;
	memcpy(&cpu->unwind, &outer, sizeof(outer));
	return false;
}

/* CR2, DR6 and the flags to push belong to the exception itself, whether or not it reaches its handler. */
static struct event fault_event(struct soft_cpu *cpu)
{
	struct soft_fault *f = &cpu->fault;
	struct event e = {
		.vector = f->vector,
		.source = EVENT_FAULT,
		.has_error = f->has_error && (cpu->cr0 & CR0_PE),
		.error = f->error,
		.rip = cpu->rip,
		.flags = cpu_get_rflags(cpu),
	};

	if (f->vector == VEC_PF)
		cpu->cr2 = f->address;
	if (f->vector == VEC_DB) {
		cpu->dr6 = (cpu->dr6 & ~0xFULL) | f->address;
		cpu->dr7 &= ~(uint64_t)DR7_GD;
	} else {
		e.flags |= RF_RF;
	}
	return e;
}

static bool deliver_all(struct soft_cpu *cpu, struct event e)
{
	while (!attempt(cpu, &e)) {
		if (!combine(e.vector, e.source == EVENT_FAULT, &cpu->fault))
			return false;
		e = fault_event(cpu);
	}
	cpu->shadow = false;
	return true;
}

bool cpu_deliver_fault(struct soft_cpu *cpu)
{
	return deliver_all(cpu, fault_event(cpu));
}

static struct event external_event(const struct soft_cpu *cpu, uint8_t vector)
{
	return (struct event){
		.vector = vector,
		.source = EVENT_EXTERNAL,
		.rip = cpu->rip,
		.flags = cpu_get_rflags(cpu),
	};
}

bool cpu_deliver_interrupt(struct soft_cpu *cpu, uint8_t vector)
{
	return deliver_all(cpu, external_event(cpu, vector));
}

bool cpu_deliver_nmi(struct soft_cpu *cpu)
{
	cpu->nmi_blocked = true;
	return deliver_all(cpu, external_event(cpu, VEC_NMI));
}

void cpu_software_interrupt(struct soft_cpu *cpu, uint8_t vector, bool is_int_n)
{
	/* INT1 is an exception that an instruction makes: its gate's privilege level does not count. */
	bool exception = vector == VEC_DB && !is_int_n;
	struct event e = {
		.vector = vector,
		.source = exception ? EVENT_EXTERNAL : EVENT_SOFTWARE,
		.rip = cpu->next_rip,
		.flags = cpu_get_rflags(cpu) & ~(uint64_t)RF_RF,
	};

	cpu->tlbs->external = exception;
	if (is_int_n && cpu_v86(cpu) && cpu_iopl(cpu) < 3)
		cpu_raise_error(cpu, VEC_GP, 0);
	deliver(cpu, &e);
	cpu->tlbs->external = false;
	cpu->tlbs->step_armed = false;
	if (!exception)
		return;
	/* Breakpoints that MOV SS has held back are told with it, in one exception. */
	cpu->dr6 |= cpu->tlbs->held;
	cpu->tlbs->held = 0;
}
